"""The images: what goes into them, who they run as; the build itself is infra/docker/try_in_debian.sh's to try."""

import re
from pathlib import Path

DOCKER = Path(__file__).parents[2] / "infra" / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text(encoding="utf-8")


def stages():
    """Each stage's lines by its name."""
    found = {}
    for line in DOCKERFILE.splitlines():
        if match := re.match(r"FROM (\S+) AS (\S+)", line):
            found[match[2]] = [line]
        elif found and line and not line.startswith("#"):
            found[list(found)[-1]].append(line)
    return found


def test_an_image_is_built_by_the_makefile_from_the_locks_and_runs_as_nobody_in_particular():
    stage = stages()
    assert list(stage) == ["cuda", "build", "build-cpu", "build-gpu", "runtime", "gpu", "cpu"]
    for kind, option in (("cpu", ""), ("gpu", " GPU=1")):
        assert stage[kind][0] == f"FROM runtime AS {kind}"
        assert stage[kind][1] == f"COPY --from=build-{kind} /opt/r2d2 /opt/r2d2"
        for step in ("packages", "project"):
            assert f"RUN sh infra/docker/install.sh {step}{option}" in stage[f"build-{kind}"]
    assert "USER 1000:1000" in stage["runtime"]
    assert not [line for name in ("gpu", "cpu") for line in stage[name] if line.startswith(("RUN", "USER"))]


def test_the_gpu_image_has_cudas_compiler_while_it_is_built_and_no_second_nccl():
    copied = [line.split()[-1] for line in stages()["build-gpu"] if line.startswith("COPY --from=cuda")]
    assert copied == ["/usr/local/cuda"]
    assert "ENV PATH=/usr/local/cuda/bin:$PATH" in stages()["build-gpu"]


def test_no_secret_can_get_into_a_layer():
    assert not re.search(r"(?m)^(ARG|ENV|RUN|COPY|ADD)\b.*(PASSWORD|SECRET|TOKEN|\.env)", DOCKERFILE)
    kept, *rest = (DOCKER / "Dockerfile.dockerignore").read_text(encoding="utf-8").split("\n*\n")[1].split("**", 1)
    assert all(line.startswith("!") for line in kept.split())
    assert {"**/.env", "**/secrets.env", "**/*.so"} <= set(("**" + rest[0]).split())
