"""The losses again, in float64 NumPy, with loops, from the papers' formulas."""

import itertools
import math

import numpy as np


def softmax(z):
    z = np.asarray(z, np.float64)
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def kl(p, q):
    return sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True) if a > 0)


def rows(x):
    return np.asarray(x, np.float64).reshape(-1, np.shape(x)[-1])


def soft_targets(student, teacher, temperature=1.0):
    pairs = zip(rows(student), rows(teacher), strict=True)
    return temperature**2 * np.mean(
        [kl(softmax(v / temperature), softmax(z / temperature)) for z, v in pairs]
    )


def soft_targets_top_k(student, teacher, k, temperature=1.0):
    losses = []
    for z, v in zip(rows(student), rows(teacher), strict=True):
        p, q = softmax(v / temperature), softmax(z / temperature)
        top = sorted(range(len(p)), key=lambda i: -p[i])[:k]
        lumped = [[*x[top], 1 - sum(x[top])] for x in (p, q)]
        losses.append(kl(*lumped) if k < len(p) else kl(p, q))
    return temperature**2 * np.mean(losses)


def decoupled(student, teacher, labels, temperature=4.0, alpha=1.0, beta=8.0):
    losses = []
    for z, v, t in zip(rows(student), rows(teacher), np.ravel(labels), strict=True):
        p, q = softmax(v / temperature), softmax(z / temperature)
        target = kl([p[t], 1 - p[t]], [q[t], 1 - q[t]])
        others = kl(np.delete(p, t) / (1 - p[t]), np.delete(q, t) / (1 - q[t]))
        losses.append(alpha * target + beta * others)
    return temperature**2 * np.mean(losses)


def l2(student, teacher):
    return np.mean(
        [(s - t) ** 2 for s, t in zip(np.ravel(student), np.ravel(teacher), strict=True)]
    )


def cosine(student, teacher):
    return np.mean(
        [
            1 - s @ t / math.sqrt((s @ s) * (t @ t))
            for s, t in zip(rows(student), rows(teacher), strict=True)
        ]
    )


def attention_transfer(student, teacher, power=2.0):
    def q(x):
        map_ = np.array([sum(abs(value) ** power for value in row) for row in rows(x)])
        return map_ / np.linalg.norm(map_)

    return np.mean(
        [np.linalg.norm(q(s) - q(t)) ** 2 for s, t in zip(student, teacher, strict=True)]
    )


def attention_mse(student, teacher):
    batch, heads = student.shape[:2]
    one = [l2(student[b, h], teacher[b, h]) for b in range(batch) for h in range(heads)]
    return np.mean(one)


def attention_kl(student, teacher):
    return np.mean([kl(t, s) for s, t in zip(rows(student), rows(teacher), strict=True)])


def huber(x, y):
    apart = abs(x - y)
    return apart**2 / 2 if apart <= 1 else apart - 1 / 2


def flat(x):
    return np.asarray(x, np.float64).reshape(len(x), -1)


def rkd_distance(student, teacher):
    def relative(x):
        found = {(i, j): math.dist(x[i], x[j]) for i, j in itertools.permutations(range(len(x)), 2)}
        return {pair: d / np.mean(list(found.values())) for pair, d in found.items()}

    s, t = relative(flat(student)), relative(flat(teacher))
    return np.mean([huber(s[pair], t[pair]) for pair in s])


def rkd_angle(student, teacher):
    def angle(x, i, j, k):
        to_i, to_k = x[i] - x[j], x[k] - x[j]
        return to_i @ to_k / (np.linalg.norm(to_i) * np.linalg.norm(to_k))

    s, t = flat(student), flat(teacher)
    triplets = itertools.permutations(range(len(s)), 3)
    return np.mean([huber(angle(s, *triplet), angle(t, *triplet)) for triplet in triplets])


def similarity_preserving(student, teacher):
    def g(x):
        gram = flat(x) @ flat(x).T
        return np.stack([row / np.linalg.norm(row) for row in gram])

    return np.linalg.norm(g(student) - g(teacher)) ** 2 / len(student) ** 2
