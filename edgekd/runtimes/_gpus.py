"""GPUs that the drivers here name, and whether they are GPUs at all.

Runtimes do not tell on which GPU they run. The drivers are asked through their C interfaces, so that
nothing has to be installed for it. This file travels to boards: only the standard library.
"""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

_VULKAN, _CUDA = ("libvulkan.so.1", "libvulkan.so"), ("libcuda.so.1",)
_INSTANCE_CREATE_INFO, _TYPE_CPU = 1, 4
# More than VkPhysicalDeviceProperties takes: type and name stand near its beginning.
_PROPERTIES_BYTES, _TYPE_AT, _NAME_AT, _NAME_BYTES = 4096, 16, 20, 256


class Gpu(NamedTuple):
    """What a driver names.

    Attributes:
        name: all that it may be, where a runtime does not tell which it took.
        software: whether it is a program on the processor, whose times are no GPU's; None where it may be.
    """

    name: str
    software: bool | None


class _InstanceCreateInfo(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_uint32),
        ("next", ctypes.c_void_p),
        ("flags", ctypes.c_uint32),
        ("application", ctypes.c_void_p),
        ("num_layers", ctypes.c_uint32),
        ("layers", ctypes.c_void_p),
        ("num_extensions", ctypes.c_uint32),
        ("extensions", ctypes.c_void_p),
    )


def vulkan() -> tuple[Gpu, ...]:
    """All that Vulkan's drivers name; nothing where there is no driver."""
    library = _library(_VULKAN)
    instance = ctypes.c_void_p()
    info = _InstanceCreateInfo(type=_INSTANCE_CREATE_INFO)
    if library is None or library.vkCreateInstance(ctypes.byref(info), None, ctypes.byref(instance)):
        return ()
    try:
        count = ctypes.c_uint32()
        library.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), None)
        handles = (ctypes.c_void_p * count.value)()
        library.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), handles)
        return tuple(_properties(library, handle) for handle in handles)
    finally:
        library.vkDestroyInstance(instance, None)


def cuda() -> tuple[Gpu, ...]:
    """All that NVIDIA's driver names; nothing where there is no driver or no GPU."""
    library = _library(_CUDA)
    count = ctypes.c_int()
    if library is None or library.cuInit(0) or library.cuDeviceGetCount(ctypes.byref(count)):
        return ()
    found = []
    for number in range(count.value):
        device, name = ctypes.c_int(), ctypes.create_string_buffer(_NAME_BYTES)
        library.cuDeviceGet(ctypes.byref(device), number)
        library.cuDeviceGetName(name, _NAME_BYTES, device)
        found.append(Gpu(name.value.decode(errors="replace"), software=False))
    return tuple(found)


def one_of(found: tuple[Gpu, ...]) -> Gpu | None:
    """The GPU that a runtime runs on which took one of these; all their names where it may be any."""
    names = list(dict.fromkeys(gpu.name for gpu in found))
    kinds = {gpu.software for gpu in found}
    return Gpu(" or ".join(names), kinds.pop() if len(kinds) == 1 else None) if found else None


def _properties(library: Any, handle: Any) -> Gpu:
    memory = ctypes.create_string_buffer(_PROPERTIES_BYTES)
    library.vkGetPhysicalDeviceProperties(ctypes.c_void_p(handle), memory)
    kind = ctypes.c_uint32.from_buffer(memory, _TYPE_AT).value
    name = memory.raw[_NAME_AT : _NAME_AT + _NAME_BYTES].partition(b"\0")[0]
    return Gpu(name.decode(errors="replace"), software=kind == _TYPE_CPU)


def _library(names: tuple[str, ...]) -> Any:
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None
