"""What is measured of a model, as pure functions; `experiments.measure` makes the report's rows.

classification   loss, top-1, macro-F1 and calibration error, accumulated by batch
attacks          FGSM and PGD adversarial images
corruptions      noise, blur, contrast and pixelate at five severities
size             parameters, non-zero parameters, bytes
compiled         XLA's FLOPs and memory of a compiled program
hlo              XLA's text of a compiled program, and how often its parts run
collectives      what devices send each other in one: kind, bytes, groups
traffic          what one reads and writes in main memory
roofline         the least time of a step on a TPU
"""
