"""Devices: places where a model is run and timed. One name, one module, loaded on demand."""

from __future__ import annotations

DEVICES = {
    "local": "edgekd.devices.local",
}
