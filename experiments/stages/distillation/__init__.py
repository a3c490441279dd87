"""Knowledge distillation in a stage: which terms, from which teacher, and where its values lie."""
