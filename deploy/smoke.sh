#!/usr/bin/env bash
# Ask a running gateway for one small answer and check that it ends well.
# usage: deploy/smoke.sh [URL]      (a key in MMI_API_KEY, if the gateway wants one)
# MMI_SMOKE_S: the longest that it waits; workers that start from zero take minutes.
set -euo pipefail
url=${1:-http://127.0.0.1:8000}
auth=()
[ -z "${MMI_API_KEY:-}" ] || auth=(-H "Authorization: Bearer $MMI_API_KEY")

curl --fail --silent --show-error --retry 30 --retry-delay 2 --retry-all-errors \
  --output /dev/null "$url/readyz"
events=$(curl --fail --silent --show-error --no-buffer --max-time "${MMI_SMOKE_S:-600}" "${auth[@]}" "$url/generate" \
  -H 'Content-Type: application/json' \
  -d '{"content": [{"type": "text", "text": "Hello"}], "max_tokens": 48, "max_images": 1,
       "image": {"steps": 4, "return": "url"}, "stream": true}')
terminal=$(grep -cE '^event: response\.(completed|incomplete)$' <<<"$events" || true)
if [ "$terminal" != 1 ]; then
  echo "no good end:" >&2
  tail -n 5 <<<"$events" >&2
  exit 1
fi
echo "ok: $(grep -c '^event: ' <<<"$events") events"
