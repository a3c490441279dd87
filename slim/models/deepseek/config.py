"""The sizes of a DeepSeek decoder, and those that were published.

A decoder without experts is the special case `dense_layers == depth`; `DeepSeekConfig.dense` gives
the one that computes as much a token as a sparse one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from slim.moe.routing import ROUTERS, Router
from slim.paths import unknown_name


@dataclass(frozen=True)
class Yarn:
    """How rotary embeddings reach beyond the positions they were trained on (arXiv:2309.00071).

    Attributes:
        factor: by how much longer the context becomes (the paper's s).
        positions: the longest input before (L).
        fast: pairs that turn more often than this over L keep their frequency (beta).
        slow: pairs that turn less often are slowed down by the factor (alpha).
        mscale: of the rotated vectors' length.
        mscale_all: of the softmax's scale, and taken out of the rotated vectors again.

    Raises:
        ValueError: a factor below 1, or one of the others out of order.
    """

    factor: float = 40.0
    positions: int = 4096
    fast: float = 32.0
    slow: float = 1.0
    mscale: float = 1.0
    mscale_all: float = 1.0

    def __post_init__(self) -> None:
        if self.factor < 1:
            raise ValueError(f"factor = {self.factor} of YaRN must be at least 1")
        if self.positions < 1:
            raise ValueError(f"positions = {self.positions} of YaRN must be at least 1")
        if not self.fast > self.slow > 0:
            raise ValueError(
                f"fast = {self.fast} of YaRN must be above slow = {self.slow}, both above 0"
            )


@dataclass(frozen=True)
class DeepSeekConfig:
    """The sizes of a DeepSeek decoder; the defaults are V3's.

    Attributes:
        vocabulary: number of tokens.
        width: of the residual stream (the papers' d).
        depth: layers, without those that predict further tokens (l).
        dense_layers: how many of them, the first, have one perceptron instead of experts.
        heads: of attention (n_h).
        query_rank: width of the queries' latent (d'_c); 0 projects them directly, as V2-Lite does.
        latent: width of the latent of keys and values (d_c), which is what a cache keeps.
        head_width: of queries and keys without positions (d_h).
        rotary_width: of rotary queries, and of the one rotary key for all heads (d_h^R).
        value_width: of a head's values.
        hidden: of the dense layers' perceptrons.
        experts: routed experts of a layer (N_r); 0 if there are none.
        active: how many of them a token goes to (K_r).
        shared: experts that all tokens go to (N_s).
        expert_hidden: hidden width of an expert.
        merged: how many experts are left where similar ones were merged, and the router's choices
            among `experts` are led to these; 0: none were.
        router: one of `slim.moe.routing.ROUTERS`.
        normalize: whether a token's gates are divided by their sum.
        scale: what gates are multiplied by then.
        groups: into how many groups the experts are divided (D).
        groups_kept: how many of them a token may reach (M).
        bias_rate: the step gamma of the routers' biases in training; 0 for no biases.
        predict_ahead: modules that predict the tokens after the next, in training only (D).
        base: of the rotary frequencies.
        yarn: how they are stretched, if they are.
        epsilon: of the normalizations.
        init_std: standard deviation of all matrices at first.

    Raises:
        ValueError: a size out of range, or experts that the router cannot choose from.
    """

    vocabulary: int = 129_280
    width: int = 7168
    depth: int = 61
    dense_layers: int = 3
    heads: int = 128
    query_rank: int = 1536
    latent: int = 512
    head_width: int = 128
    rotary_width: int = 64
    value_width: int = 128
    hidden: int = 18_432
    experts: int = 256
    active: int = 8
    shared: int = 1
    expert_hidden: int = 2048
    merged: int = 0
    router: str = "sigmoid"
    normalize: bool = True
    scale: float = 2.5
    groups: int = 8
    groups_kept: int = 4
    bias_rate: float = 1e-3
    predict_ahead: int = 1
    base: float = 10_000.0
    yarn: Yarn | None = Yarn()
    epsilon: float = 1e-6
    init_std: float = 0.006

    def __post_init__(self) -> None:
        for field in (
            *("vocabulary", "width", "depth", "heads", "latent", "head_width", "rotary_width"),
            *("value_width", "hidden"),
        ):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} = {getattr(self, field)} must be at least 1")
        for field in ("query_rank", "shared", "bias_rate", "predict_ahead"):
            if getattr(self, field) < 0:
                raise ValueError(f"{field} = {getattr(self, field)} must be at least 0")
        if self.rotary_width % 2:
            raise ValueError(f"rotary_width = {self.rotary_width} must be even: pairs are rotated")
        if not 0 <= self.dense_layers <= self.depth:
            raise ValueError(
                f"dense_layers = {self.dense_layers} must be from 0 to depth = {self.depth}"
            )
        if self.sparse_layers:
            if self.expert_hidden < 1:
                raise ValueError(f"expert_hidden = {self.expert_hidden} must be at least 1")
            self.make_router().check(self.experts)
            if self.merged and not self.active <= self.merged <= self.experts:
                raise ValueError(
                    f"merged = {self.merged} must be from active = {self.active} to experts = "
                    f"{self.experts}, or 0"
                )

    @property
    def sparse_layers(self) -> int:
        """How many layers have experts; they come last."""
        return self.depth - self.dense_layers

    @property
    def distinct(self) -> int:
        """How many experts of a layer have weights of their own."""
        return self.merged or self.experts

    def make_router(self) -> Router:
        """The router of every layer with experts.

        Raises:
            ValueError: no router has that name, or its options do not fit.
        """
        if self.router not in ROUTERS:
            raise ValueError(unknown_name("router", self.router, ROUTERS))
        return ROUTERS[self.router](
            self.active,
            normalize=self.normalize,
            scale=self.scale,
            groups=self.groups,
            groups_kept=self.groups_kept,
        )

    def dense(self) -> "DeepSeekConfig":
        """The decoder without experts whose perceptrons compute as much a token, routers aside.

        >>> deepseek_config("tiny").dense().hidden
        192
        """
        of_experts = self.sparse_layers * (self.active + self.shared) * self.expert_hidden
        hidden = (self.dense_layers * self.hidden + of_experts) / self.depth
        return replace(self, dense_layers=self.depth, hidden=round(hidden), experts=0, merged=0)


CONFIGS: Mapping[str, DeepSeekConfig] = {
    # arXiv:2412.19437, section 4.2; YaRN as in section 4.3 and the published config.
    "v3": DeepSeekConfig(),
    # DeepSeek-V2-Lite: arXiv:2405.04434, appendix B.
    "v2_lite": DeepSeekConfig(
        vocabulary=102_400,
        width=2048,
        depth=27,
        dense_layers=1,
        heads=16,
        query_rank=0,
        hidden=10_944,
        experts=64,
        active=6,
        shared=2,
        expert_hidden=1408,
        router="softmax",
        normalize=False,
        scale=1.0,
        groups=1,
        groups_kept=1,
        bias_rate=0.0,
        predict_ahead=0,
        yarn=Yarn(mscale=0.707, mscale_all=0.707),
    ),
    # Everything V3 has, for a CPU; a dense layer is as wide as the experts that a token meets.
    "tiny": DeepSeekConfig(
        vocabulary=256,
        width=64,
        depth=3,
        dense_layers=1,
        heads=4,
        query_rank=32,
        latent=32,
        head_width=16,
        rotary_width=16,
        value_width=16,
        hidden=192,
        experts=8,
        active=2,
        shared=1,
        expert_hidden=64,
        groups=4,
        groups_kept=2,
        yarn=None,
        init_std=0.02,
    ),
}


def deepseek_config(name: str) -> DeepSeekConfig:
    """The sizes of the decoder `name`.

    Raises:
        ValueError: none has that name.

    >>> deepseek_config("v3").sparse_layers
    58
    """
    if name not in CONFIGS:
        raise ValueError(unknown_name("DeepSeek", name, CONFIGS))
    return CONFIGS[name]
