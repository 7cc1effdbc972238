// SPDX-License-Identifier: Apache-2.0
// node's fetch piped into the response; RIGHT: with an end and a cancel that are handed on.
const http = require("node:http");
const { Readable } = require("node:stream");
const { pipeline } = require("node:stream/promises");
const HOP = new Set(["host", "connection", "content-length", "transfer-encoding", "content-encoding", "expect"]);
const without = (headers) => Object.fromEntries([...headers].filter(([name]) => !HOP.has(name)));

http.createServer(async (request, response) => {
  const leaving = new AbortController();
  if (process.env.RIGHT) response.on("close", () => leaving.abort());
  try {
    const answer = await fetch(process.env.UPSTREAM + request.url, {
      method: request.method, body: request, duplex: "half",
      headers: without(Object.entries(request.headers)), signal: leaving.signal,
    });
    response.writeHead(answer.status, without(answer.headers));
    response.flushHeaders();
    if (process.env.RIGHT) {
      await pipeline(Readable.fromWeb(answer.body), response);
    } else {
      for await (const piece of answer.body) response.write(piece);
      response.end();
    }
  } catch (error) {
    process.env.RIGHT ? response.destroy() : response.end();
  }
}).listen(+process.env.PORT, "127.0.0.1");
