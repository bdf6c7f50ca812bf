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
