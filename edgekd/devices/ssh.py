"""A device reached by SSH (asyncssh): host keys are verified, keys and the key agent let in, no passwords."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import shlex
import threading
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from edgekd.devices.known import Device
from edgekd.devices.link import HEARTBEAT_S, LinkError, Sink
from edgekd.errors import MeasurementError, UsageError
from edgekd.store import write_atomic

if TYPE_CHECKING:
    from asyncssh import SSHClientConnection, SSHClientProcess

T = TypeVar("T")
_CONNECT_S, _ALIVE_S, _BLOCK = 20.0, 5.0, 1 << 16
# What a transfer may take besides the agent's work.
_COPY_S = 600.0


class SshLink:
    """An open connection. asyncssh runs in a thread of its own."""

    def __init__(self, device: Device) -> None:
        asyncssh = _asyncssh()
        parts = urlsplit(device.via)
        self._name, self.folder = device.via, device.folder or "/tmp"
        self._broken = (asyncssh.ConnectionLost, asyncssh.ChannelOpenError, asyncssh.DisconnectError, OSError)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        known = Path(device.known_hosts or "~/.ssh/known_hosts").expanduser()
        try:
            self._connection: SSHClientConnection = self._do(
                _awaited(
                    asyncssh.connect(
                        parts.hostname,
                        port=parts.port or 22,
                        **({} if parts.username is None else {"username": parts.username}),
                        # Said here, so that no file of settings says otherwise.
                        config=[],
                        known_hosts=known.read_bytes() if known.is_file() else b"",
                        agent_forwarding=False,
                        **({} if device.identity is None else {"client_keys": [_key(device.identity)]}),
                        preferred_auth="publickey",
                        connect_timeout=_CONNECT_S,
                        keepalive_interval=_ALIVE_S,
                        keepalive_count_max=3,
                    )
                ),
                2 * _CONNECT_S,
            )
        except asyncssh.HostKeyNotVerifiable as error:
            self._end()
            raise MeasurementError(
                f"{self._name}: its host key is not known, or is another than it was: {error.reason}",
                hint="one that is new: edgekd devices add NAME ... --known-hosts FILE --accept-new; "
                f"one that changed: find out why, then delete its line in {known}",
            ) from None
        except asyncssh.PermissionDenied as error:
            self._end()
            raise MeasurementError(
                f"{self._name}: it lets nobody in with these keys: {error.reason}",
                hint="ssh-copy-id puts your key there; --identity FILE names another",
            ) from None
        except (asyncssh.KeyImportError, ValueError, UnicodeError) as error:
            self._end()
            raise MeasurementError(f"{self._name}: {' '.join(str(error).split())}") from None
        except BaseException:
            self._end()
            raise

    def run(self, command: Sequence[str], out: Sink, noise: Sink, time_limit_s: float) -> int:
        """As `Link.run`. When the channel closes, so does the agent's stdin, which ends it."""
        return self._do(self._run(command, out, noise, time_limit_s), time_limit_s + 60)

    async def _run(self, command: Sequence[str], out: Sink, noise: Sink, time_limit_s: float) -> int:
        process: SSHClientProcess[bytes] = await self._connection.create_process(
            shlex.join(command), encoding=None, request_pty=False
        )
        beat = asyncio.create_task(_beat(process))
        try:
            async with asyncio.timeout(time_limit_s):
                streams = (_drain(process.stdout, out), _drain(process.stderr, noise))
                async with asyncio.TaskGroup() as group:
                    for stream in streams:
                        group.create_task(stream)
                await process.wait_closed()
        except TimeoutError:
            raise MeasurementError(
                f"{self._name}: not finished within {time_limit_s:g} s; the process was ended"
            ) from None
        except BaseExceptionGroup as group_error:
            raise group_error.exceptions[0] from None
        finally:
            beat.cancel()
            with contextlib.suppress(*self._broken):
                if process.returncode is None:
                    process.kill()  # what does not read its stdin does not see its end
                process.close()
        if (code := process.returncode) is None:
            raise LinkError(f"{self._name}: the connection broke")
        return code

    def push(self, source: Path, to: str) -> None:
        """As `Link.push`, by SFTP."""
        self._do(self._push(source, to), _COPY_S)

    async def _push(self, source: Path, to: str) -> None:
        async with self._connection.start_sftp_client() as sftp:
            await sftp.put(str(source), to)

    def pull(self, source: str, to: Path, most_bytes: int) -> None:
        """As `Link.pull`, by SFTP."""
        self._do(self._pull(source, to, most_bytes), _COPY_S)

    async def _pull(self, source: str, to: Path, most_bytes: int) -> None:
        async with (
            self._connection.start_sftp_client() as sftp,
            sftp.open(source, "rb", encoding=None) as remote,
        ):
            with to.open("wb") as file:
                # What a device says of a file's size is no promise.
                while block := await remote.read(_BLOCK):
                    if file.tell() + len(block) > most_bytes:
                        raise MeasurementError(
                            f"{self._name}: {source} is larger than the {most_bytes:,} bytes expected"
                        )
                    file.write(block)  # type: ignore[arg-type]  # bytes, where no encoding is given

    def close(self) -> None:
        """As `Link.close`."""
        with contextlib.suppress(*self._broken, LinkError):
            self._do(self._close(), _CONNECT_S)
        self._end()

    async def _close(self) -> None:
        self._connection.close()
        await self._connection.wait_closed()

    def _do(self, what: Coroutine[Any, Any, T], limit_s: float) -> T:
        asyncssh = _asyncssh()
        future = asyncio.run_coroutine_threadsafe(what, self._loop)
        try:
            return future.result(limit_s)
        except concurrent.futures.TimeoutError:
            future.cancel()
            raise LinkError(f"{self._name}: no answer for {limit_s:g} s") from None
        except KeyboardInterrupt:
            future.cancel()  # which ends what runs there
            concurrent.futures.wait([future], _CONNECT_S)
            raise
        except (asyncssh.HostKeyNotVerifiable, asyncssh.PermissionDenied):
            raise
        except asyncssh.SFTPError as error:
            if isinstance(error, asyncssh.SFTPConnectionLost | asyncssh.SFTPNoConnection):
                raise LinkError(f"{self._name}: the connection broke") from None
            raise MeasurementError(f"{self._name}: {error.reason}") from None
        except self._broken as error:
            raise LinkError(
                f"{self._name}: {' '.join(str(error).split()) or 'the connection broke'}"
            ) from None

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _beat(process: Any) -> None:
    while True:
        await asyncio.sleep(HEARTBEAT_S)
        process.stdin.write(b".")


async def _awaited(what: Any) -> Any:
    return await what


async def _drain(stream: Any, sink: Sink) -> None:
    while block := await stream.read(_BLOCK):
        sink(block)


def _key(path: str) -> str:
    file = Path(path).expanduser()
    if not file.is_file():
        raise UsageError(f"identity {path!r}: no such file")
    return str(file)


def accept(device: Device) -> str:
    """Writes the key of a host that is not known into the device's file of known hosts; its fingerprint.

    Raises:
        UsageError: the device has no such file of its own.
        MeasurementError: nobody answers there, or another key is known of it.
    """
    asyncssh = _asyncssh()
    if device.scheme != "ssh":
        raise UsageError(f"--accept-new is for SSH, not for {device.via}")
    if device.known_hosts is None:
        raise UsageError("--accept-new needs a file of its own to write to", hint="--known-hosts FILE")
    parts = urlsplit(device.via)
    host, port = parts.hostname, parts.port or 22
    try:
        asked = asyncssh.get_server_host_key(host, port=port, config=[])
        key = asyncio.run(asyncio.wait_for(asked, _CONNECT_S))
    except TimeoutError:
        raise MeasurementError(f"{device.via}: no answer for {_CONNECT_S:g} s") from None
    except (OSError, asyncssh.Error, UnicodeError) as error:
        raise MeasurementError(f"{device.via}: {' '.join(str(error).split())}") from None
    if key is None:
        raise MeasurementError(f"{device.via}: it has no host key")
    name = host if port == 22 else f"[{host}]:{port}"
    path = Path(device.known_hosts).expanduser()
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    own = [line for line in lines if line.split(" ", 1)[0] == name]
    said = key.export_public_key().decode().strip()
    if any(line.split()[1:3] == said.split()[:2] for line in own):
        return str(key.get_fingerprint())
    if own:
        raise MeasurementError(
            f"{device.via}: another host key is known of it; it shows {key.get_fingerprint()} now",
            hint=f"find out why; where that is right, delete the lines of {name} in {path}",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, "\n".join([*lines, f"{name} {said}"]) + "\n")
    return str(key.get_fingerprint())


def _asyncssh() -> Any:
    try:
        import asyncssh
    except ModuleNotFoundError:
        raise UsageError("devices over SSH need asyncssh", hint="pip install 'edgekd[devices]'") from None
    return asyncssh
