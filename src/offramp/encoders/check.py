"""Checks that an encoder keeps the contract of :class:`~offramp.encoders.base.StagedEncoder`, for authors of encoders.

As scikit-learn's ``check_estimator``: one call in a test of your own, ``check_encoder(MyEncoder())``, and the first promise
that does not hold is an ``AssertionError`` that names the check and the exit.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from offramp.encoders.base import StagedEncoder, State
from offramp.errors import EncoderError

TOLERANCE = 1e-6
"""Largest difference, relative to the largest value, between two ways to the same tap on the same batch."""
BATCH_TOLERANCE = 1e-5
"""The same across batch sizes, where kernels may sum in another order."""

Check = Callable[[StagedEncoder, Tensor], None]


def check_encoder(encoder: StagedEncoder, input_shape: tuple[int, ...] | None = None, seed: int = 0) -> None:
    """Run all of :data:`CHECKS` on an encoder with random input.

    The encoder is checked as it is used, in inference mode and without gradients, and is left as it was: weights, buffers,
    training flags and global random state.

    Args:
        encoder: The encoder, on any device. Random weights will do.
        input_shape: Shape of one window, without the batch; by default a small one that ``encoder.input`` accepts.
        seed: Seed of the random input.

    Raises:
        AssertionError: A promise does not hold. The message begins with the name of the check.
    """
    shape = default_input_shape(encoder) if input_shape is None else tuple(input_shape)
    device = next((p.device for p in encoder.parameters()), torch.device("cpu"))
    x = encoder.input.draw(3, shape, seed).to(device)
    with _inference(encoder), torch.no_grad():
        for check in CHECKS:
            try:
                check(encoder, x.clone())
            except AssertionError as error:
                raise AssertionError(f"{check.__name__}: {error}") from None
            except Exception as error:
                raise AssertionError(f"{check.__name__}: stopped by {type(error).__name__}: {error}") from error


def default_input_shape(encoder: StagedEncoder) -> tuple[int, ...]:
    """A small shape of one window that the encoder accepts: free axes get 2, the last one 96, as far as their limits let them."""
    return encoder.input.example_shape()


def check_exits(encoder: StagedEncoder, x: Tensor) -> None:
    """Exits have unique names and count from 0, one per stage."""
    exits = encoder.exits
    _require(len(exits) > 0, "the encoder has no exits")
    _require(len(exits) == len(encoder.stages), f"{len(exits)} exits for {len(encoder.stages)} stages")
    names = [exit.name for exit in exits]
    _require(len(set(names)) == len(names), f"exit names are not unique: {', '.join(names)}")
    _require(
        [e.index for e in exits] == list(range(len(exits))), f"indices are {[e.index for e in exits]}, not 0, 1, ..."
    )


def check_params(encoder: StagedEncoder, x: Tensor) -> None:
    """``params`` of an exit counts the parameters that its tap depends on, and never falls with depth."""
    for before, after in pairwise(encoder.exits):
        _require(before.params <= after.params, f"params of {after.name!r} are below those of {before.name!r}")
    for exit in encoder.exits:
        used = _parameters_used(encoder, x, exit.name)
        _require(exit.params == used, f"exit {exit.name!r} says {exit.params} params, its tap depends on {used}")


def check_input_spec(encoder: StagedEncoder, x: Tensor) -> None:
    """``input`` describes batch and window axes alike, and accepts the window at hand."""
    spec = encoder.input
    _require(len(spec.layout) == len(spec.shape) + 1, "input.layout needs one name per axis, the batch included")
    _require(len(spec.minimum) == len(spec.shape), "input.minimum needs one size per axis of input.shape")
    spec.check(tuple(x.shape[1:]))


def check_taps(encoder: StagedEncoder, x: Tensor) -> None:
    """Taps are finite float32 ``(N, width)``, named and ordered by depth, for all exits and for some."""
    taps = encoder.taps(x)
    names = [exit.name for exit in encoder.exits]
    _require(list(taps) == names, f"taps come as {list(taps)}, not in order of depth as {names}")
    for exit in encoder.exits:
        tap = taps[exit.name]
        _require(
            tuple(tap.shape) == (len(x), exit.width),
            f"tap of {exit.name!r} is {tuple(tap.shape)}, its width {exit.width}",
        )
        _require(tap.dtype == torch.float32, f"tap of {exit.name!r} is {tap.dtype}, not float32")
        _require(bool(tap.isfinite().all()), f"tap of {exit.name!r} is not finite")
    asked = [names[-1], names[0]]
    some = encoder.taps(x, asked)
    _require(list(some) == list(dict.fromkeys(reversed(asked))), f"taps of {asked} come as {list(some)}")
    _require(not encoder.taps(x, []), "taps of no exit are not empty")


def check_tokens(encoder: StagedEncoder, x: Tensor) -> None:
    """Where ``pooling="tokens"`` is known, it gives finite float32 ``(N, positions, width)``, the same alone and together."""
    first = encoder.exits[0].name
    try:
        encoder.taps(x, [first], pooling="tokens")
    except EncoderError:
        return
    together = encoder.taps(x, pooling="tokens")
    for exit in encoder.exits:
        tokens = together[exit.name]
        fits = tokens.dim() == 3 and len(tokens) == len(x) and 0 not in tokens.shape
        _require(fits, f"tokens of {exit.name!r} are {tuple(tokens.shape)}, not (N, positions, width)")
        _require(tokens.dtype == torch.float32, f"tokens of {exit.name!r} are {tokens.dtype}, not float32")
        _require(bool(tokens.isfinite().all()), f"tokens of {exit.name!r} are not finite")
        alone = encoder.taps(x, [exit.name], pooling="tokens")[exit.name]
        _require_close(tokens, alone, f"tokens of {exit.name!r} differ when deeper exits are asked for too")


def check_determinism(encoder: StagedEncoder, x: Tensor) -> None:
    """The same input gives the same taps, bit for bit."""
    first, second = encoder.taps(x), encoder.taps(x)
    for name, tap in first.items():
        _require(torch.equal(tap, second[name]), f"two calls give different taps at {name!r}")


def check_no_mutation(encoder: StagedEncoder, x: Tensor) -> None:
    """No call changes a parameter, a buffer, a training flag, the input or the global random state."""
    fingerprint, before, given = encoder.fingerprint(), _snapshot(encoder), x.clone()
    randomness = _random_state(x.device)
    last = encoder.exits[-1].name
    encoder.taps(x)
    encoder.states(x)
    encoder.truncate(last)(x)
    encoder.segment(None, last)(x)
    after = _snapshot(encoder)
    _require(set(after) == set(before), f"tensors come and go: {', '.join(sorted(set(after) ^ set(before)))}")
    for name, tensor in before.items():
        _require(torch.equal(tensor, after[name]), f"{name!r} changes in a forward pass")
    _require(encoder.fingerprint() == fingerprint, "the fingerprint changes in a forward pass")
    for name, module in encoder.named_modules():
        _require(not module.training, f"{name or 'the encoder'!r} is switched to training in a forward pass")
    _require(torch.equal(x, given), "the input is changed in place")
    for name, state in _random_state(x.device).items():
        _require(torch.equal(state, randomness[name]), f"the global random state of {name} changes in a forward pass")


def check_stop_early(encoder: StagedEncoder, x: Tensor) -> None:
    """A tap at exit k runs stages 0 to k once each, and none behind."""
    for exit in encoder.exits:
        with _counted(encoder) as (advanced, ran):
            encoder.taps(x, [exit.name])
        expected = list(range(exit.index + 1))
        _require(advanced == expected, f"exit {exit.name!r} advances stages {advanced} instead of {expected}")
        behind = sorted({stage for stage in ran if stage > exit.index})
        _require(not behind, f"exit {exit.name!r} runs stages behind it: {behind}")


def check_truncate(encoder: StagedEncoder, x: Tensor) -> None:
    """``truncate(exit)(x)`` is the tap; it shares the encoder's weights and holds no later stage."""
    taps = encoder.taps(x)
    for exit in encoder.exits:
        network = encoder.truncate(exit.name)
        where = f"truncate({exit.name!r})"
        _require_close(network(x), taps[exit.name], f"{where} differs from the tap")
        _require_shared(network, encoder, set(range(exit.index + 1)), where)
        held = sum(p.numel() for p in network.parameters())
        _require(held == exit.params, f"{where} holds {held} parameters, the exit says {exit.params}")


def check_states(encoder: StagedEncoder, x: Tensor) -> None:
    """``states`` gives each exit's state, batch first, untouched by the stages behind it."""
    together = encoder.states(x)
    for exit in encoder.exits:
        alone = encoder.states(x, [exit.name])[exit.name]
        _require(len(alone) == len(x), f"state at {exit.name!r} is {tuple(alone.shape)}, not batch first")
        _require_close(together[exit.name], alone, f"state at {exit.name!r} is changed by a later stage")
    state = encoder.begin(x)
    for exit in encoder.exits:
        given = tuple(tensor.clone() for tensor in state)
        after = encoder.advance(exit.index, state)
        for tensor, kept in zip(state, given, strict=True):
            _require(
                torch.equal(tensor, kept), f"stage {exit.index} ({exit.name!r}) changes the state before it in place"
            )
        pooled = encoder.pool(exit.index, after).clone()
        _require(torch.equal(encoder.pool(exit.index, after), pooled), f"pooling twice at {exit.name!r} differs")
        state = after


def check_segment(encoder: StagedEncoder, x: Tensor) -> None:
    """Segments compose: input to a, then a to b, is input to b, and pools to the tap at b."""
    names, taps = [exit.name for exit in encoder.exits], encoder.taps(x)
    whole = {name: encoder.segment(None, name)(x) for name in names}
    for exit in encoder.exits:
        tap = encoder.pool(exit.index, whole[exit.name])
        _require_close(tap, taps[exit.name], f"segment(None, {exit.name!r}) does not pool to the tap")
    for after in encoder.exits[:-1]:
        for to in dict.fromkeys((names[after.index + 1], names[-1])):
            segment = encoder.segment(after.name, to)
            where = f"segment({after.name!r}, {to!r})"
            _require_same_state(segment(*whole[after.name]), whole[to], where)
            _require_shared(segment, encoder, set(range(after.index + 1, names.index(to) + 1)), where)


def check_batch_invariance(encoder: StagedEncoder, x: Tensor) -> None:
    """A window's taps do not depend on the others in its batch, nor on others that leave on the way (``t[keep]``)."""
    taps = encoder.taps(x)
    for index in range(len(x)):
        for name, tap in encoder.taps(x[index : index + 1]).items():
            message = f"tap of {name!r} depends on the other windows in the batch"
            _require_close(tap, taps[name][index : index + 1], message, BATCH_TOLERANCE)
    keep = torch.tensor([True, False, True], device=x.device)
    state = encoder.advance(0, encoder.begin(x))
    for exit in encoder.exits[1:]:
        kept = encoder.advance(exit.index, tuple(tensor[keep] for tensor in state))
        state = encoder.advance(exit.index, state)
        message = f"state at {exit.name!r} changes when windows leave before it"
        _require_same_state(kept, tuple(tensor[keep] for tensor in state), message, BATCH_TOLERANCE)


def check_errors(encoder: StagedEncoder, x: Tensor) -> None:
    """A wrong shape, dtype, exit or pooling is an ``EncoderError`` that names it and what is accepted."""
    names = [exit.name for exit in encoder.exits]
    for shape in _wrong_shapes(encoder, tuple(x.shape[1:])):
        given = ", ".join(map(str, shape))
        _require_error(partial(encoder.taps, x.new_zeros((2, *shape))), [given], f"input of shape (N, {given})")
    for dtype in (torch.float64, torch.float32, torch.int64, torch.complex64):
        if dtype != encoder.input.dtype:
            _require_error(partial(encoder.taps, x.to(dtype)), [str(dtype)], f"input of {dtype}")
    if encoder.input.values is not None:
        for strange in (-1, encoder.input.values):
            named = [str(strange), str(encoder.input.values - 1)]
            _require_error(partial(encoder.taps, torch.full_like(x, strange)), named, f"the token number {strange}")
    unknown = "no such exit"
    for call in (
        lambda: encoder.taps(x, [unknown]),
        lambda: encoder.states(x, [unknown]),
        lambda: encoder.truncate(unknown),
        lambda: encoder.segment(unknown, names[-1]),
    ):
        _require_error(call, [unknown, *names], "an unknown exit")
    _require_error(lambda: encoder.segment(names[-1], names[0]), [names[-1], names[0]], "a segment that leads back")
    _require_error(lambda: encoder.taps(x, pooling="no such pooling"), ["no such pooling"], "an unknown pooling")


CHECKS: tuple[Check, ...] = (
    check_input_spec,
    check_exits,
    check_no_mutation,  # before other calls, so that a change in the first call is seen
    check_taps,
    check_determinism,
    check_stop_early,
    check_truncate,
    check_states,
    check_tokens,
    check_segment,
    check_batch_invariance,
    check_params,
    check_errors,
)
"""All checks in the order in which they run; each takes the encoder and a batch of three windows."""


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise AssertionError(message)


def _require_close(value: Tensor, expected: Tensor, message: str, tolerance: float = TOLERANCE) -> None:
    _require(value.shape == expected.shape, f"{message}: {tuple(value.shape)} against {tuple(expected.shape)}")
    if value.numel() and not torch.equal(value, expected):
        scale = float(expected.abs().max().clamp_min(torch.finfo(torch.float32).tiny))
        difference = float((value.double() - expected.double()).abs().max()) / scale
        _require(difference <= tolerance, f"{message}: by {difference:.2g} of the largest value")


def _require_same_state(state: State, expected: State, message: str, tolerance: float = TOLERANCE) -> None:
    _require(len(state) == len(expected), f"{message}: {len(state)} tensors against {len(expected)}")
    for tensor, other in zip(state, expected, strict=True):
        _require_close(tensor, other, message, tolerance)


def _require_shared(network: nn.Module, encoder: StagedEncoder, stages: set[int], where: str) -> None:
    """Tensors of the network must be the encoder's own, and none of a stage outside ``stages``."""
    own = _storages(encoder)
    strange = [name for name, tensor in _tensors(network) if tensor.numel() and tensor.data_ptr() not in own]
    _require(not strange, f"{where} does not share the encoder's {', '.join(strange[:3])}")
    wanted = [_storages(stage) for index, stage in enumerate(encoder.stages) if index in stages]
    for index, stage in enumerate(encoder.stages):
        if index not in stages:
            left_over = _storages(network) & _storages(stage).difference(*wanted)
            _require(not left_over, f"{where} holds tensors of stage {index}, which it does not run")


def _require_error(call: Callable[[], object], named: list[str], what: str) -> None:
    try:
        call()
    except EncoderError as error:
        missing = [name for name in named if name not in str(error)]
        _require(not missing, f"the error for {what} does not name {', '.join(missing)}: {error}")
    except Exception as error:
        raise AssertionError(f"{what} is a {type(error).__name__}, not an EncoderError: {error}") from error
    else:
        raise AssertionError(f"{what} is accepted")


def _wrong_shapes(encoder: StagedEncoder, shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    yield (*shape, 1)
    for axis, (size, least) in enumerate(zip(encoder.input.shape, encoder.input.minimum, strict=True)):
        if size is not None or least > 1:
            wrong = size + 1 if size is not None else least - 1
            yield (*shape[:axis], wrong, *shape[axis + 1 :])
    for axis, most in enumerate(encoder.input.maximum):
        if most is not None:
            yield (*shape[:axis], most + 1, *shape[axis + 1 :])


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _storages(module: nn.Module) -> set[int]:
    return {tensor.data_ptr() for _, tensor in _tensors(module) if tensor.numel()}


def _snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in _tensors(module)}


def _parameters_used(encoder: StagedEncoder, x: Tensor, exit: str) -> int:
    """Elements of the parameters that a tap's gradient reaches."""
    parameters = list(encoder.parameters())
    asked = [parameter.requires_grad for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        with torch.enable_grad():
            total = encoder.taps(x, [exit])[exit].sum()
        if not total.requires_grad:
            return 0
        gradients = torch.autograd.grad(total, parameters, allow_unused=True)
        return sum(p.numel() for p, gradient in zip(parameters, gradients, strict=True) if gradient is not None)
    finally:
        for parameter, before in zip(parameters, asked, strict=True):
            parameter.requires_grad_(before)


def _random_state(device: torch.device) -> dict[str, Tensor]:
    states = {
        "torch": torch.get_rng_state(),
        "numpy": torch.from_numpy(np.random.get_state(legacy=False)["state"]["key"].astype(np.int64)),
        "random": torch.tensor(random.getstate()[1], dtype=torch.int64),
    }
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


@contextmanager
def _inference(encoder: StagedEncoder) -> Iterator[None]:
    flags = [(module, module.training) for module in encoder.modules()]
    try:
        encoder.eval()
        yield
    finally:
        for module, training in flags:
            module.training = training


@contextmanager
def _counted(encoder: StagedEncoder) -> Iterator[tuple[list[int], list[int]]]:
    """Stages that ``advance`` is called with, and stages whose module runs, in order."""
    advanced: list[int] = []
    ran: list[int] = []
    advance = encoder.advance

    def counting(stage: int, state: State) -> State:
        advanced.append(stage)
        return advance(stage, state)

    hooks = [
        stage.register_forward_pre_hook(lambda *_, index=index: ran.append(index))
        for index, stage in enumerate(encoder.stages)
    ]
    encoder.advance = counting  # type: ignore[method-assign]
    try:
        yield advanced, ran
    finally:
        del encoder.advance
        for hook in hooks:
            hook.remove()
