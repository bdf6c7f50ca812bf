#!/usr/bin/env bash
# Applies an overlay to the cluster of the current kubeconfig, and shows that its workers wake from
# zero, grow, shrink and go back to zero without losing a request. Needs KEDA and the images.
# usage: deploy/test_cluster.sh [OVERLAY]      (default: k8s/overlays/dev)
# MMI_URL: where the gateway is reached from here; by default a port is forwarded to it.
set -euo pipefail
cd "$(dirname "$0")/.."
overlay=${1:-k8s/overlays/dev}
requests=${MMI_REQUESTS:-24}

if ! kubectl cluster-info > /dev/null 2>&1; then
    echo "SKIPPED: no cluster answers (kubectl cluster-info); set KUBECONFIG" >&2
    exit 0
fi
namespace=$(kubectl kustomize "$overlay" | awk '/^kind: Namespace/ {found = 1} found && /^  name:/ {print $2; exit}')
kube() { kubectl --namespace "$namespace" "$@"; }
replicas() { kube get deployment "$1" --output 'jsonpath={.spec.replicas}'; }

# wait_for WHAT SECONDS COMMAND...: until the command succeeds.
wait_for() {
    local what=$1 end=$((SECONDS + $2))
    shift 2
    until "$@"; do
        if [ "$SECONDS" -ge "$end" ]; then
            echo "FAILED: $what" >&2
            exit 1
        fi
        sleep 3
    done
    echo "ok: $what"
}
at_zero() { [ "$(replicas text-worker)" = 0 ] && [ "$(replicas image-worker)" = 0 ]; }
awake() { [ "$(replicas text-worker)" -gt 0 ]; }
grown() { [ "$(replicas text-worker)" -gt 1 ] || [ "$(replicas image-worker)" -gt 1 ]; }

kubectl apply --server-side --filename <(kubectl kustomize "$overlay")
kube rollout status statefulset/redis deployment/gateway --timeout 300s
wait_for "workers at zero before the first request" 600 at_zero

if [ -z "${MMI_URL:-}" ]; then
    MMI_URL=http://127.0.0.1:18080
    kube port-forward service/gateway 18080:80 > /dev/null &
    forward=$!
    trap 'kill "$forward"' EXIT
    sleep 3
fi

work=$(mktemp --directory)
for number in $(seq "$requests"); do
    deploy/smoke.sh "$MMI_URL" > "$work/$number" 2>&1 &
    jobs[number]=$!
done
wait_for "woken from zero" 120 awake
wait_for "grown under load" 600 grown
failed=0
for number in $(seq "$requests"); do
    wait "${jobs[number]}" || { failed=$((failed + 1)); cat "$work/$number" >&2; }
done
[ "$failed" = 0 ] || { echo "FAILED: $failed of $requests requests" >&2; exit 1; }
echo "ok: $requests requests, each ended once"
wait_for "back to zero" 900 at_zero
