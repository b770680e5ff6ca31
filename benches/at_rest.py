"""What smg takes before and between requests: ten pools of ten workers, and a file of 10,000 lines."""

import contextlib
import os
import socket
import subprocess
import time
from pathlib import Path

POOLS, WORKERS = 10, 10
LINES = 10_000

# The first health checks are over, and what they took is given back.
SETTLES = 3


def listener(port):
    return f'version = 1\n[[listeners]]\nname = "main"\naddress = "127.0.0.1:{port}"\nserve = ["inference", "probes"]\n'


def tens(port, worker):
    """A hundred workers, which are one: the load's, by the addresses of loopback."""
    text = [listener(port)]
    for pool in range(POOLS):
        urls = ", ".join(f'"http://127.0.{pool + 1}.{at + 1}:{worker}"' for at in range(WORKERS))
        text.append(f'[[pools]]\nname = "p{pool}"\nworkers = [{urls}]\n[[models]]\nname = "m{pool}"\npool = "p{pool}"\n')
    return "".join(text)


def long_file(port):
    """Pools with their models and comments, as people write them."""
    lines = listener(port).splitlines()
    pool = 0
    while len(lines) < LINES:
        lines += ["", f"# Rack {pool}, rented until spring", "[[pools]]", f'name = "pool-{pool}"', 'runtime = "vllm"']
        for at in range(8):
            url = f"http://10.{pool // 250}.{pool % 250}.{at + 1}:8000"
            lines += ["[[pools.workers]]", f'url = "{url}"  # slot {at}', f'labels = {{ slot = "{at}" }}']
        lines += ["", "[[models]]", f'name = "org/model-{pool}"', f'pool = "pool-{pool}"', f'aliases = ["model-{pool}"]']
        pool += 1
    return "\n".join(lines) + "\n"


def rss_mb(pid):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {pid} is gone")


def ready_and_rss(program, folder, port, worker):
    """From the exec to `READY=1`, in ms, and the memory that is in use some seconds later, in MB."""
    file = folder / "tens.toml"
    file.write_text(tens(port, worker))
    with contextlib.ExitStack() as stack:
        manager = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        manager.bind(str(folder / "notify"))
        stack.callback(lambda: (folder / "notify").unlink())
        manager.settimeout(10)
        environment = {**os.environ, "NOTIFY_SOCKET": str(folder / "notify")}
        start = time.monotonic()
        process = subprocess.Popen(
            [program, "--config", file], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
        )
        try:
            while b"READY=1" not in manager.recv(4096):
                pass
            ready = (time.monotonic() - start) * 1000
            time.sleep(SETTLES)
            return ready, rss_mb(process.pid)
        except TimeoutError as error:
            raise RuntimeError("smg was not ready within 10 s") from error
        finally:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def check_ms(program, folder):
    """The best of some runs of `check-config`, in ms."""
    file = folder / "long.toml"
    file.write_text(long_file(0))
    best = None
    for _ in range(5):
        start = time.monotonic()
        done = subprocess.run([program, "check-config", file], capture_output=True)
        took = (time.monotonic() - start) * 1000
        if done.returncode:
            raise RuntimeError(done.stdout.decode(errors="replace")[-500:])
        best = took if best is None else min(best, took)
    return best


def measure(program, folder, port, worker):
    ready, rss = ready_and_rss(program, folder, port, worker)
    return {"tens_ready_ms": ready, "tens_rss_mb": rss, "check_10k_ms": check_ms(program, folder)}
