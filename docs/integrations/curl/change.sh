#!/bin/sh
# Asks for a change and waits for its end. URL and TOKEN come from the environment; curl alone is needed.
#
#   URL=http://127.0.0.1:8080 TOKEN=$(postern token --caller servicenow) ./change.sh RITM0010023 "Sales ESP" "Sales Laptops"
set -eu
ticket=$1 configuration=$2 group=$3

# The ticket is the key: sent again, it is the same operation. --retry repeats after 408, 429, 5xx and honours Retry-After.
curl --silent --show-error --fail-with-body --max-time 40 --retry 3 "$URL/v1/assignments" \
  --header "Authorization: Bearer $TOKEN" --header "Idempotency-Key: $ticket" --header "Prefer: wait=25" \
  --json "{\"configuration\": \"$configuration\", \"add\": [{\"group\": \"$group\"}], \"ticket\": \"$ticket\"}"
