"""`far:0`: a make-believe accelerator. It computes, on the CPU, and refuses what CUDA refuses.

A tensor on it wraps one of the CPU's, and every operation unwraps, computes and wraps again: values, gradients, `vmap`
and `jvp` are those of the CPU. An operation raises as it would on a GPU where it meets a tensor, a generator or NumPy
on the other side. So a tensor made on the wrong device fails here, without a GPU.

What it cannot show: kernels that differ or are missing, float16, memory, streams, code that asks for "cuda" by name.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, ClassVar
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration

NAME = "far"
aten = torch.ops.aten
_PlainGenerator = torch.Generator
_run_backward = torch.autograd._engine_run_backward

_ACROSS = {aten.copy_.default, aten._to_copy.default}
"""What goes from one device to the other."""
_INDEXED = {
    aten.index.Tensor,
    aten._unsafe_index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
    aten._unsafe_index_put.default,
}
"""Operations whose second argument, the indices, CUDA takes from the host too."""
_SCALARS = {aten.masked_fill.Tensor, aten.masked_fill_.Tensor, aten.fill.Tensor, aten.fill_.Tensor}
_SCALARS |= {aten.where.self, *_INDEXED}
"""Operations that take a value without dimensions from the host, beside those of two arguments element by element."""


class FarTensor(Tensor):
    """A tensor of the far device; `near` holds its values."""

    near: Tensor

    @staticmethod
    def __new__(cls, near: Tensor) -> FarTensor:
        near = near.resolve_conj().resolve_neg()  # bits that the wrapper does not show
        made: FarTensor = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            near.shape,
            strides=near.stride(),
            storage_offset=near.storage_offset(),
            dtype=near.dtype,
            device=torch.device(NAME, 0),
        )
        made.near = near
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        _refuse_what_cuda_refuses(func, args, kwargs or {})
        return _computed(func, args, dict(kwargs or {}))

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"far({self.near!r})"

    def tolist(self) -> Any:
        return self.near.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if force:
            return self.near.detach().numpy()
        raise TypeError(
            "can't convert far:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first."
        )

    def untyped_storage(self) -> Any:
        return self.near.untyped_storage()

    def __reduce_ex__(self, protocol: Any) -> Any:
        """A file holds the values; who reads it says which device they go to."""
        return self.near.detach().__reduce_ex__(protocol)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self.numpy()


class FarGenerator(_PlainGenerator):
    """`torch.Generator` while the device is in use; one on it draws by the CPU's generator and says that it is far."""

    made: ClassVar[set[int]] = set()

    def __new__(cls, device: Any = "cpu") -> Any:
        if torch.device(device).type != NAME:
            return _PlainGenerator(device)
        generator = super().__new__(cls, "cpu")
        cls.made.add(generator._cdata)  # torch hands another Python object to a dispatched operation
        return generator

    def __del__(self) -> None:
        self.made.discard(self._cdata)  # a generator of the host may come to lie there

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device(NAME, 0)


def _far(x: object) -> bool:
    return isinstance(x, FarTensor)


def _near(x: Any) -> Any:
    """Arguments as the CPU's operation takes them: tensors stand alone or in lists."""
    if isinstance(x, FarTensor):
        return x.near
    if isinstance(x, (list, tuple)):
        return type(x)([_near(each) for each in x])
    return x


def _wrap(x: Any) -> Any:
    if isinstance(x, Tensor):
        return x if isinstance(x, FarTensor) else FarTensor(x)
    if isinstance(x, (list, tuple)):
        return type(x)([_wrap(each) for each in x])
    return x


@cache
def _takes_scalars(func: Any) -> bool:
    """Whether CUDA takes a CPU tensor without dimensions here."""
    tensors = [a for a in func._schema.arguments if "Tensor" in str(a.type) and not a.kwarg_only]
    return func in _SCALARS or (torch.Tag.pointwise in func.tags and len(tensors) <= 2)


def _leaves(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _leaves(value)
        else:
            yield value


def _refuse_what_cuda_refuses(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raises where the operands are not all on one device, by CUDA's rules.

    Raises:
        RuntimeError: as CUDA does.
    """
    if func in _ACROSS:
        return
    if func in _INDEXED and _far(args[0]):
        args = (args[0], *args[2:])
    for x in _leaves((*args, *kwargs.values())):
        if isinstance(x, Tensor) and not _far(x) and (x.ndim or not _takes_scalars(func)):
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, far:0 and cpu! "
                f"(when checking arguments of {func}, a tensor of shape {tuple(x.shape)})"
            )
        if isinstance(x, _PlainGenerator) and x._cdata not in FarGenerator.made:
            raise RuntimeError("Expected a 'far' device type for generator but found 'cpu'")


def _computed(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    device = kwargs.get("device")
    stays = device is None or torch.device(device).type == NAME
    if device is not None and stays:
        kwargs["device"] = torch.device("cpu")
    out = func(*map(_near, args), **{key: _near(value) for key, value in kwargs.items()})
    if torch.Tag.inplace_view in func.tags:
        with torch._C._DisableTorchDispatch():
            func(*args, **kwargs)  # the shape that the wrapper shows
        return args[0]
    if not func._schema.is_mutable:
        return _wrap(out) if stays else out
    for x in _leaves((*args, *kwargs.values())):
        if _far(x) and x.shape != x.near.shape:  # an output that had no size yet
            x.data = FarTensor(x.near)
    given = {
        id(x.near if _far(x) else x): x for x in _leaves((*args, *kwargs.values())) if isinstance(x, Tensor)
    }
    if isinstance(out, Tensor):
        return given[id(out)] if id(out) in given else _wrap(out)
    return tuple(given[id(x)] if id(x) in given else _wrap(x) for x in out) if out is not None else None


def _empty(size: Any, *, dtype: Any = None, memory_format: Any = None, **_: Any) -> FarTensor:
    return FarTensor(torch.empty(size, dtype=dtype, memory_format=memory_format))


def _copy_from(source: Any, target: Any, non_blocking: bool = False) -> Any:
    _near(target).copy_(_near(source))
    return target


_KERNELS: dict[str, Callable[..., Any]] = {
    "empty.memory_format": _empty,
    "empty_strided": lambda size, stride, *, dtype=None, **_: FarTensor(
        torch.empty_strided(size, stride, dtype=dtype)
    ),
    "_efficientzerotensor": lambda size, *, dtype=None, **_: FarTensor(torch.zeros(size, dtype=dtype)),
    "_copy_from": _copy_from,
}
"""How tensors come to be on the device; of one that is there, `__torch_dispatch__` takes care."""


class _Module(backend_registration._DummyBackendModule):
    """`torch.far`."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]

    def manual_seed(self, seed: int) -> None:
        """Draws are the CPU's: nothing of its own to seed."""

    def synchronize(self, device: Any = None) -> None:
        """Every operation is done when it returns."""

    def get_rng_state(self, device: Any = None) -> Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: Tensor, device: Any = None) -> None:
        torch.set_rng_state(state)


class _Guard(backend_registration._DummyDeviceGuard):
    def type_(self) -> Any:
        # autograd asks while an error unwinds, and would end the process if Python then saw one error too many
        ctypes.pythonapi.PyErr_Clear()
        return super().type_()


class _Draws(TorchFunctionMode):
    """Refuses that a generator of the far device fills a tensor of the host, which no dispatch to `FarTensor` sees."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance((kwargs or {}).get("generator"), FarGenerator) and not _far(_unwrapped(out)):
            raise RuntimeError("Expected a 'cpu' device type for generator but found 'far'")
        return out


def _unwrapped(x: Any) -> Any:
    """The tensor under what functorch wraps around it."""
    while torch._C._functorch.is_functorch_wrapped_tensor(x):
        x = torch._C._functorch.get_unwrapped(x)
    return x


@cache
def _register() -> tuple[object, ...]:
    """Tells torch of the device, once in a process; what comes back must live as long."""
    torch.utils.rename_privateuse1_backend(NAME)
    torch.utils.generate_methods_for_privateuse1_backend()
    torch._register_device_module(NAME, _Module())  # type: ignore[arg-type]
    hook, guard = backend_registration._DummyPrivateUse1Hook(), _Guard()
    torch._C._acc.register_python_privateuseone_hook(hook)
    torch._C._acc.register_python_privateuseone_device_guard(guard)
    kernels = torch.library.Library("aten", "IMPL", "PrivateUse1")
    for name, kernel in _KERNELS.items():
        kernels.impl(name, kernel)
    rest = torch.library.Library("_", "IMPL")
    rest.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    return hook, guard, kernels, rest


def _here(*arguments: Any, **settings: Any) -> Any:
    """The autograd engine in the caller's thread: a process that took gradients before the device was registered has
    no thread for it. Asked for at each call, as leaving inference mode lets the engine have its threads again."""
    with torch.autograd.set_multithreading_enabled(False):
        return _run_backward(*arguments, **settings)


@contextmanager
def far_device() -> Iterator[torch.device]:
    """The device, and `torch.Generator` that can be made on it."""
    _register()
    with (
        mock.patch("torch.Generator", FarGenerator),
        mock.patch("torch.autograd._engine_run_backward", _here),
        _Draws(),
    ):
        yield torch.device(NAME, 0)
