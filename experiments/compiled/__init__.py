"""The train step of a recipe, compiled for a pod that is not there, and what it would take.

topology  the devices of a TPU topology, from libtpu, without any TPU
step      the step as `experiments.train.fit` runs it, from shapes alone
report    memory, exchanges, operations and the least time
table     reports beside each other, in Markdown and as JSON
"""
