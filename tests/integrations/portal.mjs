// A page that calls the gateway from a real browser. Prints its origin; POST /run with {gateway, token} opens the page
// under that origin and under another name of the same server, and returns the responses that the page got.
import { createServer } from "node:http";
import { chromium } from "playwright-core";

// Runs in the page.
async function change({ gateway, token, configuration }) {
  try {
    const answer = await fetch(`${gateway}/v1/assignments`, {
      method: "POST",
      headers: { authorization: `Bearer ${token}`, "content-type": "application/json", "idempotency-key": configuration, prefer: "wait=25" },
      body: JSON.stringify({ configuration, add: [{ group: "Sales Laptops" }], ticket: "PORTAL-1" }),
    });
    return { ...(await answer.json()), status: answer.status, ratelimit: answer.headers.get("ratelimit") };
  } catch (error) {
    return { error: error.message };
  }
}

async function run({ gateway, token }) {
  const args = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"];
  const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args });
  try {
    const page = await browser.newPage();
    await page.goto(origin);
    const allowed = await page.evaluate(change, { gateway, token, configuration: "Sales ESP" });
    const problem = await page.evaluate(change, { gateway, token, configuration: "No such configuration" });
    await page.goto(origin.replace("127.0.0.1", "localhost"));
    const other = await page.evaluate(change, { gateway, token, configuration: "Kiosk ESP" });
    return { allowed, problem, other };
  } finally {
    await browser.close();
  }
}

let origin;
const server = createServer((request, response) => {
  if (request.url !== "/run") return response.end("<!doctype html><title>Portal</title>");
  const pieces = [];
  request.on("data", (piece) => pieces.push(piece)).on("end", async () => {
    try {
      response.end(JSON.stringify(await run(JSON.parse(Buffer.concat(pieces).toString("utf8")))));
    } catch (error) {
      response.writeHead(500).end(String(error.stack));
    }
  });
});
server.listen(0, () => {
  origin = `http://127.0.0.1:${server.address().port}`;
  console.log(origin);
});
