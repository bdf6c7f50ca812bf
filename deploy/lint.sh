#!/usr/bin/env bash
# All checks of what is deployed that need neither Docker nor a cluster.
set -euo pipefail
cd "$(dirname "$0")/.."

yamllint --strict --config-file deploy/yamllint.yml docker-compose.yml deploy k8s
hadolint Dockerfile
shellcheck deploy/*.sh .ci/run
if command -v promtool > /dev/null; then
    promtool check config deploy/prometheus.yml
    promtool test rules tests/data/alerts/alerts_test.yml
elif [ -n "${CI:-}" ]; then
    echo "promtool is missing: apt-get install prometheus" >&2
    exit 1
else
    echo "no promtool (apt-get install prometheus): the alert rules are not tested" >&2
fi

# checkov's pins fit none of our locks, so it gets an environment of its own.
PATH="$PWD/.build/uv/bin:$PATH"
if uvx --quiet checkov==3.3.30 --version > /dev/null 2>&1; then
    rendered=$(mktemp --directory)
    trap 'rm -r "$rendered"' EXIT
    for overlay in k8s/overlays/*; do
        kubectl kustomize "$overlay" --output "$rendered/${overlay##*/}.yaml"
    done
    uvx --quiet checkov==3.3.30 --config-file deploy/checkov.yml --file "$rendered"/*.yaml Dockerfile
else
    echo "no checkov (uvx cannot install it): the manifests are not scanned" >&2
fi
