"""A training run with a teacher."""

import dataclasses
import logging
from typing import NamedTuple

import jax

from experiments import mesh as meshes
from experiments.network import Trainable
from experiments.report.quantities import size
from experiments.stages.distillation import cache, teacher, terms
from experiments.stages.distillation.config import Distillation
from experiments.stages.distillation.objective import Student, Teach
from experiments.stages.distillation.teacher import Teacher
from experiments.stages.distillation.terms import Term
from experiments.stages.stage import Context
from experiments.train import Job
from slim.graph import Graph

LOG = logging.getLogger("slim")


class Lesson(NamedTuple):
    """What a student is told.

    Attributes:
        teacher: who tells.
        terms: what is compared.
        teach: the teacher's values, for inputs.
    """

    teacher: Teacher
    terms: tuple[Term, ...]
    teach: Teach


def prepare(context: Context, config: Distillation, student: Graph, field: str) -> Lesson:
    """Finds the teacher and checks that it and the student can be compared.

    Args:
        context: the stage's.
        config: what to compare.
        student: the graph that is trained, or any that has the logits first among its outputs.
        field: where `config` stands.

    Raises:
        ConfigError: there is no such teacher, or it and the student cannot be compared so.
    """
    found = teacher.find(context, config.teacher, f"{field}.teacher")
    of_teacher = found.network.graph()
    compared = terms.resolve(config.terms, student, of_teacher, f"{field}.terms")
    terms.check(compared, student, of_teacher, f"{field}.terms")
    for term in compared:
        for m, n in term.layer_map.pairs if term.student else ():
            LOG.info("%s: %s: %s", context.name, term.name, term.described(m, n))
    return Lesson(found, compared, teacher.lessons(found.network, compared))


def supply(context: Context, config: Distillation, job: Job, lesson: Lesson) -> Job:
    """The job with the teacher's values in its batches, or with the teacher itself.

    Raises:
        OSError: the teacher's values could not be written.
    """
    found, teach, dataset = lesson.teacher, lesson.teach, context.dataset
    values = cache.describe(teach, found, dataset)
    takes = cache.size_bytes(values, dataset)
    alone = jax.process_count() == 1 and not context.data.augment
    if alone and takes <= config.cache_mib * 2**20:
        kept = cache.load(context.cache, teach, found, dataset, values)
        return dataclasses.replace(job, extend=kept.extend)
    LOG.info(
        "%s: the teacher computes its values (%s of the whole split) in every step",
        context.name,
        size(takes),
    )
    constants = jax.device_put(found.variables, meshes.replicated(context.mesh))
    return dataclasses.replace(job, constants=constants)


def taught(
    context: Context, config: Distillation, job: Job, network: Trainable, field: str
) -> tuple[Student, Job]:
    """The student that a network is, and the job that trains it.

    Args:
        context: the stage's.
        config: what to compare.
        job: without a teacher.
        network: the student.
        field: where `config` stands.

    Raises:
        ConfigError: there is no such teacher, or it and the student cannot be compared so.
        OSError: the teacher's values could not be written.
    """
    lesson = prepare(context, config, network.train_graph(), field)
    student = Student(
        network,
        lesson.terms,
        lesson.teach,
        temperature=config.temperatures(job.total_steps),
        mixture=config.mixtures(job.total_steps),
        label_smoothing=job.config.label_smoothing,
        modality=context.dataset.info.modality,
    )
    job = dataclasses.replace(job, network=student, objective=student.objective)
    return student, supply(context, config, job, lesson)
