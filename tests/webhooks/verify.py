"""Verifies a message by the published library: secret, id, seconds since 1970, signature and body; prints the verdict."""

import sys

from standardwebhooks import Webhook, WebhookVerificationError

secret, message_id, seconds, signature, body = sys.argv[1:]
headers = {"webhook-id": message_id, "webhook-timestamp": seconds, "webhook-signature": signature}
try:
    Webhook(secret).verify(body, headers)
    print("verified")
except WebhookVerificationError:
    print("refused")
