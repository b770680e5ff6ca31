"""Runs packaging/docker/Dockerfile without Docker, as far as that goes.

    dockerfile.py ROOT BINARY

Each source of a COPY must be there and not be ignored. In ROOT, a clean Debian in place of the last
stage's base, its RUN lines are run and its files laid; BINARY stands for what the first stage builds.
Then its entry point is started as its user, in a network of its own, until its health check passes,
and ended by its stop signal.
"""

import fnmatch
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
START = """
ip link set lo up
mount -t proc proc "$1/proc"
chroot "$1" setpriv --reuid="$3" --regid="$4" --clear-groups --inh-caps=-all env -i $ENVIRONMENT $ENTRY &
gateway=$!
tries=100
until chroot "$1" setpriv --reuid="$3" --regid="$4" --clear-groups env -i $ENVIRONMENT "${@:5}"; do
    tries=$((tries - 1))
    [ $tries -gt 0 ] || { echo "never healthy"; exit 1; }
    sleep 0.1
done 2>/dev/null
chroot "$1" env -i $ENVIRONMENT smg reload
kill -s "$2" $gateway
wait $gateway
"""


def instructions(path):
    """(word, rest) of each, with continued lines joined and comments left out."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [tuple(line.split(None, 1)) for line in joined.splitlines() if line.strip()]


def stages(path):
    found = []
    for word, rest in instructions(path):
        if word == "FROM":
            found.append([])
        found[-1].append((word, rest))
    return found


def ignored():
    return [line.strip().lstrip("/") for line in open(".dockerignore", encoding="utf-8") if line.strip()]


def sources(rest):
    words = shlex.split(rest)
    stage = next((word for word in words if word.startswith("--from=")), None)
    words = [word for word in words if not word.startswith("--")]
    return stage, words[:-1], words[-1]


def check_sources(stage):
    for word, rest in stage:
        if word != "COPY":
            continue
        other, names, _ = sources(rest)
        for name in names if other is None else []:
            assert pathlib.Path(name).exists(), f"COPY: there is no `{name}`"
            hidden = [p for p in ignored() if fnmatch.fnmatch(name, p) or name.startswith(f"{p}/")]
            assert not hidden, f"COPY: `{name}` is ignored"


def lay(root, rest, binary):
    other, names, to = sources(rest)
    for name in names:
        target = root / to.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(binary if other else name, target)
        # As BuildKit does: the mode of the source.
        target.chmod(os.stat(binary if other else name).st_mode & 0o777)


def main():
    root, binary = pathlib.Path(sys.argv[1]).resolve(), sys.argv[2]
    build, last = stages(pathlib.Path("packaging/docker/Dockerfile"))
    for stage in (build, last):
        check_sources(stage)
    # It has been built by scripts/package; here only the shell's view of the lines is looked at.
    for word, rest in build:
        if word == "RUN":
            subprocess.run(["bash", "-n", "-c", rest], check=True)

    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    says, environment = {}, [PATH]
    for word, rest in last:
        if word == "RUN":
            print(f"RUN {rest}", flush=True)
            command = ["chroot", str(root), "env", "-i", *environment, "DEBIAN_FRONTEND=noninteractive"]
            subprocess.run([*command, "/bin/sh", "-c", rest], check=True)
        elif word == "COPY":
            lay(root, rest, binary)
        elif word == "ENV":
            environment += shlex.split(rest)
        else:
            says[word] = rest
    user, group = says["USER"].split(":")
    assert int(user) > 0 and int(group) > 0, "it runs as root"
    assert says["EXPOSE"].split() == ["30000", "30001", "29000"]
    assert (root / "etc/ssl/certs/ca-certificates.crt").exists()
    health = json.loads(says["HEALTHCHECK"].split("CMD", 1)[1])
    entry = json.loads(says["ENTRYPOINT"]) + json.loads(says["CMD"])
    shell = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    shell += ["bash", "-euo", "pipefail", "-c", START, "start", str(root), says["STOPSIGNAL"], user, group]
    words = {"ENVIRONMENT": " ".join(environment), "ENTRY": " ".join(entry)}
    subprocess.run([*shell, *health], check=True, env={**os.environ, **words})


main()
