// Signs a message with the published library: secret, id, Unix seconds and body; prints the header's value.
import { Webhook } from "standardwebhooks";

const [secret, id, seconds, body] = process.argv.slice(2);
console.log(new Webhook(secret).sign(id, new Date(Number(seconds) * 1000), body));
