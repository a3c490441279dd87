"""A training run with a teacher."""

import dataclasses
import logging

import jax

from experiments import mesh as meshes
from experiments.network import Trainable
from experiments.report.quantities import size
from experiments.stages.distillation import cache, teacher, terms
from experiments.stages.distillation.config import Distillation
from experiments.stages.distillation.objective import Student
from experiments.stages.stage import Context
from experiments.train import Job

LOG = logging.getLogger("slim")


def taught(
    context: Context, config: Distillation, job: Job, network: Trainable
) -> tuple[Student, Job]:
    """The student that a network is, and the job that trains it.

    Args:
        context: the stage's.
        config: what to compare.
        job: without a teacher.
        network: the student.

    Raises:
        ConfigError: there is no such teacher, or it and the student cannot be compared so.
        OSError: the teacher's values could not be written.
    """
    found = teacher.find(context, config.teacher)
    field = f"{context.name}.terms"
    graphs = network.train_graph(), found.network.graph()
    compared = terms.resolve(config.terms, *graphs, field)
    terms.check(compared, *graphs, field)
    for term in compared:
        for m, n in term.layer_map.pairs if term.student else ():
            LOG.info("%s: %s: %s", context.name, term.name, term.described(m, n))
    teach = teacher.lessons(found.network, compared)
    student = Student(
        network,
        compared,
        teach,
        temperature=config.temperatures(job.total_steps),
        mixture=config.mixtures(job.total_steps),
        label_smoothing=job.config.label_smoothing,
        modality=context.dataset.info.modality,
    )
    job = dataclasses.replace(job, network=student, objective=student.objective)
    values = cache.describe(teach, found, context.dataset)
    takes = cache.size_bytes(values, context.dataset)
    alone = jax.process_count() == 1 and not context.data.augment
    if alone and takes <= config.cache_mib * 2**20:
        kept = cache.load(context.cache, teach, found, context.dataset, values)
        return student, dataclasses.replace(job, extend=kept.extend)
    LOG.info(
        "%s: the teacher computes its values (%s of the whole split) in every step",
        context.name,
        size(takes),
    )
    constants = jax.device_put(found.variables, meshes.replicated(context.mesh))
    return student, dataclasses.replace(job, constants=constants)
