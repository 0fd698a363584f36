#!/usr/bin/env bash
# curl: refusals of long bodies, an empty Last-Event-ID, versions of HTTP, HEAD, Accept, and what a page may read.
set -euo pipefail
base=$(sed -E 's/.*"url": *"([^"]+)".*/\1/' <<<"$(tr -d '\n' <"$STATE_DIR/registration.json")")
bearer="Authorization: Bearer $(<"$STATE_DIR/credential")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
json='Content-Type: application/json'
chunked='Transfer-Encoding: chunked'
curl() { command curl --silent --max-time 10 "$@" || true; }
# The status and the type of the answer.
answer() { curl --output /dev/null --write-out '%{http_code} %{content_type}' "$@"; }
check() {
  if [[ $2 == "$3" ]]; then printf '%-5s %-26s %s\n' ok curl "$1"
  else printf '%-5s %-26s %s: %s, expected %s\n' FAIL curl "$1" "${2//$'\n'/ }" "$3"; fi
}
twenty() { for _ in {1..20}; do answer "$@"; echo; done | sort | uniq -c | sed 's/^ *//'; }

head -c 900000 /dev/zero >"$work/900"
head -c 20000000 /dev/zero >"$work/20000"
problem='application/problem+json'
check 'reads 401 to 900 kB of a stranger in 20 of 20' \
  "$(twenty --header "$json" --data-binary "@$work/900" "$base/v1/events")" "20 401 $problem"
check 'reads 401 to 900 kB in chunks of a stranger in 20 of 20' \
  "$(twenty --header "$json" --header "$chunked" --data-binary "@$work/900" "$base/v1/events")" "20 401 $problem"
check 'reads 413 to 20000 kB of its user in 20 of 20' \
  "$(twenty --header "$bearer" --header "$json" --data-binary "@$work/20000" "$base/v1/events")" "20 413 $problem"
check 'reads 413 to 20000 kB in chunks of its user in 20 of 20' \
  "$(twenty --header "$bearer" --header "$json" --header "$chunked" --data-binary "@$work/20000" "$base/v1/events")" \
  "20 413 $problem"

check 'opens a stream with an empty Last-Event-ID' \
  "$(answer --max-time 1 --header "$bearer" --header 'Last-Event-ID;' "$base/v1/events")" '200 text/event-stream'
check 'is refused with an empty ?after' "$(answer --header "$bearer" "$base/v1/events?after=")" "400 $problem"
check 'reads where a stream begins before the first event' \
  "$(curl --max-time 1 --header "$bearer" "$base/v1/events?topics=note" | sed -E '/^id: [0-9a-f]{8}-[0-9]+$/s/.*/id/' | paste -sd ' ')" \
  'retry: 500 id '

for version in --http1.0 --http1.1 --http2; do
  check "is served with $version" "$(answer $version --header "$bearer" "$base/v1/status")" '200 application/json'
done
check 'needs no port of its own for localhost' \
  "$(answer --header "$bearer" "http://localhost:${base##*:}/v1/status")" '200 application/json'
check 'is refused as a proxy' "$(answer --header "$bearer" --proxy "$base" http://evil.example/v1/status)" "421 $problem"
check 'is refused a path that is not as it is written' \
  "$(answer --header "$bearer" --path-as-is "$base/v1/../v1/status")" "404 $problem"
check 'reads 405 to TRACE' "$(answer --request TRACE --header "$bearer" "$base/v1/status")" "405 $problem"
check 'reads of HEAD what it reads of GET at /' "$(answer --head "$base/")" "$(answer "$base/")"
check 'prefers JSON by a wildcard' \
  "$(answer --header 'Accept: application/*, text/plain;q=0.5' "$base/v1/status")" "401 $problem"
check 'prefers text where it says so' \
  "$(answer --header 'Accept: application/json;q=0.5, text/plain' "$base/v1/status" | cut -d';' -f1)" '401 text/plain'
check 'reads Date' "$(curl --include --header "$bearer" "$base/v1/status" | grep -ci '^date: ')" 1
check 'shows a page of an allowlisted origin two headers' \
  "$(curl --include --header "$bearer" --header 'Origin: https://app.example' "$base/v1/status" |
    tr -d '\r' | sed -n 's/^access-control-expose-headers: //ip')" 'local-daemon-protocol, retry-after'
