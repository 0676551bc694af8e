// Runs the TypeScript example: change URL TOKEN-URL TICKET GROUP [SUFFIX], or callback SECRET ID TIME SIGNATURE BODY.
import { callback, change, keyOf, Refused, token } from "./postern.js";

const [what = "", ...rest] = process.argv.slice(2);
try {
  if (what === "change") {
    const [url = "", tokens = "", ticket = "", group = "", ...suffix] = rest;
    const client = { client_id: "hr", client_secret: "issuer-client-secret" };
    const access = await token(tokens, { ...client, scope: "Assignments.Change", resource: "api://postern" });
    const wanted = { configuration: "Sales ESP", add: [{ group }], ticket };
    const ended = await change(url, access, wanted, keyOf(ticket, ...suffix));
    console.log(`${ended.id} ${ended.state}: ${ended.summary}`);
  } else {
    const [secret = "", id = "", time = "", signature = "", body = ""] = rest;
    const headers = { "webhook-id": id, "webhook-timestamp": time, "webhook-signature": signature };
    console.log(JSON.stringify(callback(secret, headers, body).context));
  }
} catch (error) {
  console.log(error instanceof Refused ? `refused: ${error.message}` : "not verified");
  process.exitCode = 1;
}
