"""What is measured of a model, as pure functions; `experiments.measure` makes the report's rows.

classification   loss, top-1, macro-F1 and calibration error, accumulated by batch
attacks          FGSM and PGD adversarial images
corruptions      noise, blur, contrast and pixelate at five severities
size             parameters, non-zero parameters, bytes
compiled         XLA's FLOPs and memory of a compiled program
"""
