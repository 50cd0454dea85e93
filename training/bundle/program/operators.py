"""Operators: the functions that a program may call, by name, and the reason for which others are refused.

Deploy walk: graph.py -> [operators.py]
Imports no torch: a bundle is verified without it.

In torch 2.13, `torch.ops.aten` has 1,730 names. Some write a file (`save`), map one (`from_file`), read memory that
nothing has written (`empty_strided`), or trust addresses and indices in their arguments, and torch resolves any name
under `torch.` besides: `torch.os.system` too. So a program may call what is listed here, and nothing else.
"""

import re

# Each name stands for all of its overloads but those that write to an `out`, and for its in-place form with "_".
_ELEMENTWISE = """
    abs absolute acos acosh add addcdiv addcmul angle arccos arccosh arcsin arcsinh arctan arctan2 arctanh asin asinh
    atan atan2 atanh bitwise_and bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor ceil celu
    clamp clamp_max clamp_min clip complex conj conj_physical copysign cos cosh deg2rad digamma div divide elu eq erf
    erfc erfinv exp exp2 expm1 fill fix float_power floor floor_divide fmax fmin fmod frac frexp gcd ge gelu glu
    greater greater_equal gt hardshrink hardsigmoid hardswish hardtanh heaviside hypot i0 igamma igammac imag isclose
    isfinite isin isinf isnan isneginf isposinf isreal lcm ldexp le leaky_relu lerp less less_equal lgamma log log10
    log1p log2 log_sigmoid logaddexp logaddexp2 logical_and logical_not logical_or logical_xor logit lt masked_fill
    maximum minimum mish mul multiply mvlgamma nan_to_num ne neg negative nextafter not_equal polar polygamma positive
    pow prelu rad2deg real reciprocal relu relu6 remainder round rrelu rsqrt rsub selu sgn sigmoid sign signbit silu
    sin sinc sinh softplus softshrink sqrt square sub subtract tan tanh threshold true_divide trunc where xlogy zero
    __and__ __iand__ __ilshift__ __ior__ __irshift__ __ixor__ __lshift__ __or__ __rshift__ __xor__ special_airy_ai
    special_bessel_j0 special_bessel_j1 special_bessel_y0 special_bessel_y1 special_digamma special_entr special_erf
    special_erfc special_erfcx special_erfinv special_exp2 special_expit special_expm1 special_gammainc
    special_gammaincc special_gammaln special_i0 special_i0e special_i1 special_i1e special_log1p special_log_ndtr
    special_log_softmax special_logit special_logsumexp special_modified_bessel_i0 special_modified_bessel_i1
    special_modified_bessel_k0 special_modified_bessel_k1 special_multigammaln special_ndtr special_ndtri
    special_polygamma special_psi special_round special_sinc special_softmax special_spherical_bessel_j0
    special_xlog1py special_xlogy special_zeta
"""
_SHAPES = """
    adjoint alias argwhere atleast_1d atleast_2d atleast_3d block_diag broadcast_tensors broadcast_to
    cartesian_prod cat channel_shuffle chunk clone column_stack combinations concat concatenate constant_pad_nd
    contiguous copy detach diag diag_embed diagflat diagonal diagonal_scatter dsplit dstack expand expand_as
    fill_diagonal_ flatten flip fliplr flipud gather hsplit hstack index index_add index_copy index_fill index_put
    index_reduce index_select kron lift_fresh lift_fresh_copy mH mT masked_scatter masked_select matrix_H meshgrid
    moveaxis movedim narrow nonzero nonzero_static numpy_T one_hot pad pad_sequence permute pixel_shuffle
    pixel_unshuffle put ravel reflection_pad1d reflection_pad2d reflection_pad3d repeat repeat_interleave
    replication_pad1d replication_pad2d replication_pad3d reshape reshape_as resolve_conj resolve_neg roll rot90
    row_stack scatter scatter_add scatter_reduce select select_scatter slice slice_scatter split split_with_sizes
    squeeze stack swapaxes swapdims t take take_along_dim tensor_split tile to transpose tril triu type_as unbind
    unflatten unfold unsafe_chunk unsafe_split unsafe_split_with_sizes unsqueeze vander view view_as view_as_complex
    view_as_real vsplit vstack item sym_constrain_range sym_constrain_range_for_size sym_is_contiguous sym_numel
    sym_size sym_storage_offset sym_stride _assert_async _assert_scalar _assert_tensor_metadata
    _shape_as_tensor _to_copy _unsafe_view
"""
_REDUCTIONS = """
    addbmm addmm addmv addr all amax amin aminmax any argmax argmin argsort baddbmm bincount bmm bucketize cdist
    chain_matmul corrcoef count_nonzero cov cross cummax cummin cumprod cumsum cumulative_trapezoid diff dist dot
    einsum frobenius_norm ger gradient histc histogram inner kthvalue logcumsumexp logsumexp matmul matrix_exp
    matrix_power max mean median min mm mode msort mv nanmean nanmedian nanquantile nansum norm norm_except_dim
    nuclear_norm outer pairwise_distance pdist prod quantile range renorm searchsorted sort std std_mean sum
    sum_to_size tensordot topk trace trapezoid trapz unique_consecutive unique_dim unique_dim_consecutive var var_mean
    vdot _unique2 cholesky cholesky_inverse cholesky_solve det inverse logdet pinverse qr slogdet svd triangular_solve
    linalg_cholesky linalg_cholesky_ex linalg_cond linalg_cross linalg_det linalg_diagonal linalg_eig linalg_eigh
    linalg_eigvalsh linalg_householder_product linalg_inv linalg_inv_ex linalg_lstsq linalg_lu
    linalg_lu_factor linalg_lu_factor_ex linalg_matmul linalg_matrix_exp linalg_matrix_norm linalg_matrix_power
    linalg_matrix_rank linalg_multi_dot linalg_norm linalg_pinv linalg_qr linalg_slogdet linalg_solve linalg_solve_ex
    linalg_solve_triangular linalg_svd linalg_svdvals linalg_tensorinv linalg_tensorsolve linalg_vander linalg_vecdot
    linalg_vector_norm fft_fft fft_fft2 fft_fftfreq fft_fftn fft_fftshift fft_hfft fft_hfft2 fft_hfftn fft_ifft
    fft_ifft2 fft_ifftn fft_ifftshift fft_ihfft fft_ihfft2 fft_ihfftn fft_irfft fft_irfft2 fft_irfftn fft_rfft
    fft_rfft2 fft_rfftfreq fft_rfftn istft stft
"""
_LAYERS = """
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d
    adaptive_max_pool3d affine_grid_generator alpha_dropout avg_pool1d avg_pool2d avg_pool3d batch_norm bilinear
    col2im conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution cosine_similarity
    dropout embedding embedding_bag embedding_renorm feature_alpha_dropout feature_dropout grid_sampler
    grid_sampler_2d grid_sampler_3d group_norm gru gru_cell im2col instance_norm layer_norm linear log_softmax lstm
    lstm_cell max_pool1d max_pool1d_with_indices max_pool2d max_pool2d_with_indices max_pool3d max_pool3d_with_indices
    max_unpool2d max_unpool3d native_channel_shuffle native_dropout
    native_layer_norm rms_norm rnn_relu rnn_relu_cell rnn_tanh rnn_tanh_cell scaled_dot_product_attention softmax
    upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d
    upsample_trilinear3d _adaptive_avg_pool2d _adaptive_avg_pool3d _log_softmax
    _softmax _upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_nearest_exact1d _upsample_nearest_exact2d
    _upsample_nearest_exact3d binary_cross_entropy
    binary_cross_entropy_with_logits cosine_embedding_loss cross_entropy_loss hinge_embedding_loss huber_loss kl_div
    l1_loss margin_ranking_loss mse_loss poisson_nll_loss smooth_l1_loss soft_margin_loss triplet_margin_loss
"""
# empty, empty_like and new_empty are rebuilt as zeros; see UNWRITTEN.
_NEW_TENSORS = """
    arange bartlett_window blackman_window empty empty_like eye full full_like hamming_window hann_window
    kaiser_window linspace logspace new_empty new_full new_ones new_zeros ones ones_like scalar_tensor tril_indices
    triu_indices zeros zeros_like
"""
OPERATORS = frozenset(f"{_ELEMENTWISE} {_SHAPES} {_REDUCTIONS} {_LAYERS} {_NEW_TENSORS}".split())

UNWRITTEN = {
    "empty.memory_format": "zeros.default",
    "empty_like.default": "zeros_like.default",
    "new_empty.default": "new_zeros.default",
}
"""Operators whose result is memory that nothing has written, other callers' data perhaps, and the call instead."""

_SIZE_FUNCTIONS = """
    _operator.add _operator.and_ _operator.eq _operator.floordiv _operator.ge _operator.gt _operator.le
    _operator.lshift _operator.lt _operator.mod _operator.mul _operator.ne _operator.neg _operator.or_ _operator.pos
    _operator.pow _operator.rshift _operator.sub _operator.truediv math.trunc torch.sym_float torch.sym_int
    torch.sym_ite torch.sym_max torch.sym_min torch.sym_not torch._sym_sqrt
"""
SIZE_FUNCTIONS = frozenset(_SIZE_FUNCTIONS.split())
"""Functions of sizes: those that torch 2.13 serializes (`_SYM_OPS` in torch/_export/serde/serialize.py)."""

CONTROL_FLOW: dict[str, tuple[int, ...]] = {
    "cond": (1, 2),
    "wrap_with_set_grad_enabled": (1,),
    "wrap_with_autocast": (4,),
}
"""Operators that run a graph, by name in torch.ops.higher_order, and which of their arguments are graphs."""

ATEN, HIGHER_ORDER = "torch.ops.aten.", "torch.ops.higher_order."

_REFUSED = tuple(
    (re.compile(pattern), reason)
    for pattern, reason in (
        (r"torch\._functorch\..*", "is a part of torch.vmap, which keeps state in the process; write the batch out"),
        (rf"{re.escape(HIGHER_ORDER)}.*", f"is none of the control flow that is read: {', '.join(CONTROL_FLOW)}"),
        (r"aten\.(from_file|save)\..*", "reads or writes a file"),
        (
            r"aten\.(bernoulli|cauchy|exponential|geometric|log_normal|multinomial|normal|normal_functional|poisson"
            r"|rand|rand_like|randint|randint_like|randn|randn_like|random|randperm|uniform|binomial|rrelu_with_noise"
            r"|_standard_gamma|_sample_dirichlet)_?\..*",
            "draws random numbers, so equal rows would get different answers; compute without them in eval mode",
        ),
        (r"aten\.as_strided\w*\..*", "reaches beyond its tensor; use slices, unfold or flip"),
        (r"aten\.(set|set_data|resize|resize_as)_?\..*", "moves a tensor to other memory"),
        (r"aten\.(empty|new_empty)_\w+\..*", "returns memory that nothing has written; use torch.zeros"),
        (r"aten\.(\w*seed|set_\w+_enabled|_cufft_\w+|_cudnn_init\w+)\..*", "changes the state of the process"),
        (r"aten\.(warn|_?print|format)\..*", "writes to the process's output"),
        (r"aten\.(wait|to_here|\w*owner\w*|get_gradients|local_value)\..*", "waits for or calls another process"),
        (r"aten\.(record_stream|_?pin_memory)\..*", "acts on the device's driver"),
        (r"aten\.\w*(fbgemm|quant|qparams|int4pack|int8pack|int_repr)\w*\..*", "is of quantized nets"),
        (r"aten\.\w*(cudnn|miopen|mkldnn|mps|nnpack|cslt)\w*\..*", "runs on one kind of device only"),
        (r"aten\.\w*(sparse|nested|jagged|coalesce|_csr|_csc|_bsr|_bsc|indices|values)\w*\..*", "is of sparse tensors"),
        (r"aten\.(\w*backward\w*|_foreach\w*|_fused\w*|_amp\w*|requires_grad_|retain_grad)\..*", "is of training"),
        (
            r"aten\.(segment_reduce|\w*lu_solve|\w*ldl_solve|lu_unpack|fractional_max_pool\dd|_pad_packed\w*"
            r"|_pack_padded\w*|_reshape_alias|_unsafe\w*)\..*",
            "does not check the indices in its arguments",
        ),
        (r"aten\.(lstm|gru|rnn_\w+)\.data", "trusts the batch sizes of a packed sequence"),
        (r"aten\.\w+\.(t|left_t|right_|str|any|enum|list_\w+|\w+_list|Dict_\w+)", "is of lists and strings"),
        (r"aten\..*", "writes to a tensor that it is given for its output"),
    )
)  # fmt: skip

# No overload begins with "_", as attributes of the operator's Python object do.
_ATEN_TARGET = re.compile(r"torch\.ops\.aten\.(\w+)\.([A-Za-z]\w*)", re.ASCII)
# Overloads of listed operators that write to an `out` (some call it otherwise), those of packed sequences, which trust
# their batch sizes, and those of TorchScript that repeat or join lists. A test compares this with all
# schemas of the installed torch.
_REFUSED_OVERLOAD = re.compile(
    r"(\w+_)?out(_\w*)?|Out\w+|values(_stable)?|dim_(values|max|min)|inverse|eigvals|[LUQX]"
    r"|data|t|left_t|right_|str|any|enum|list_\w+|\w+_list|Dict_\w+"
)


def check_target(target: str) -> None:
    """Check that a program may call a function.

    Args:
        target: its name, as torch.export serializes it: `torch.ops.aten.linear.default`, `_operator.mul`.

    Raises:
        ValueError: it may not; the message says why.
    """
    if target in SIZE_FUNCTIONS:
        return
    if target.startswith(HIGHER_ORDER) and target.removeprefix(HIGHER_ORDER) in CONTROL_FLOW:
        return
    match = _ATEN_TARGET.fullmatch(target)
    name = f"aten.{match[1]}.{match[2]}" if match else target
    is_listed = match is not None and (match[1] in OPERATORS or match[1].removesuffix("_") in OPERATORS)
    if match and is_listed and not _REFUSED_OVERLOAD.fullmatch(match[2]):
        return
    for pattern, reason in _REFUSED[: None if is_listed else -1]:
        if pattern.fullmatch(name):
            raise ValueError(f"{target:.200} {reason}")
    raise ValueError(
        f"{target:.200} is none of the operators that a program may call (training/bundle/program/operators.py)"
    )
