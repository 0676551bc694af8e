// Verifies a message with the published library: secret, id, Unix seconds, signature and body; prints the verdict.
import { Webhook, WebhookVerificationError } from "standardwebhooks";

const [secret, id, seconds, signature, body] = process.argv.slice(2);
try {
  new Webhook(secret).verify(body, { "webhook-id": id, "webhook-timestamp": seconds, "webhook-signature": signature });
  console.log("verified");
} catch (error) {
  if (!(error instanceof WebhookVerificationError)) throw error;
  console.log("refused");
}
