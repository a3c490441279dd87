"""The names of JAX's primitives by kind, for the readings of a graph that treat a kind alike."""


def names(text: str) -> frozenset[str]:
    """The words of a text, as a set."""
    return frozenset(text.split())


UNARY = names(
    """
    abs acos acosh asin asinh atan atanh bessel_i0e bessel_i1e bitcast_convert_type cbrt ceil
    clz conj convert_element_type copy copy_p cos cosh digamma erf erf_inv erfc exp exp2 expm1
    floor imag integer_pow is_finite lgamma log log1p log2 logistic name neg not one_minus_square
    optimization_barrier population_count real reduce_precision round rsqrt sign sin sinh sqrt
    square stop_gradient tan tanh
    """
)
"""One result, entry by entry, of one operand (`optimization_barrier`: of each operand)."""

NARY = names(
    """
    add add_any and atan2 clamp complex div eq eq_to ge gt igamma igamma_grad_a igammac le le_to
    lt lt_to max min mul ne nextafter or polygamma pow regularized_incomplete_beta rem select_n
    shift_left shift_right_arithmetic shift_right_logical sub xor zeta random_gamma_grad mulhi
    """
)
"""Entry by entry of several operands of one shape (a predicate or a bound may be a scalar)."""

ELEMENTWISE = UNARY | NARY

MOVES = names(
    """
    bitcast_convert_type convert_element_type copy copy_p name optimization_barrier stop_gradient
    reduce_precision select_n real imag complex
    """
)
"""Elementwise primitives that do no arithmetic."""

REDUCTIONS = {
    "reduce_sum": 0.0,
    "reduce_prod": 1.0,
    "reduce_max": float("-inf"),
    "reduce_min": float("inf"),
    "reduce_or": 0.0,
    "reduce_xor": 0.0,
    "reduce_and": 1.0,
}
"""Reductions over `axes`, and the entry that changes nothing in each."""

CUMULATIVE = {
    "cumsum": 0.0,
    "cumprod": 1.0,
    "cummax": float("-inf"),
    "cummin": float("inf"),
    "cumlogsumexp": float("-inf"),
}
"""Running reductions along `axis`, and the entry that changes nothing in each."""

WINDOWS = names(
    """
    reduce_window reduce_window_sum reduce_window_max reduce_window_min select_and_gather_add
    select_and_scatter_add
    """
)
"""Reductions over sliding windows."""
