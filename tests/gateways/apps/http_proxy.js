// SPDX-License-Identifier: Apache-2.0
// node's http-proxy, as its README has it; RIGHT: with an end and a cancel that are handed on.
const http = require("node:http");
const proxy = require("http-proxy").createProxyServer({ target: process.env.UPSTREAM });
proxy.on("error", (error, request, response) => response.destroy());
if (process.env.RIGHT) {
  proxy.on("proxyReq", (upstream, request, response) => response.on("close", () => upstream.destroy()));
  proxy.on("proxyRes", (answer, request, response) => answer.on("aborted", () => response.destroy()));
}
http.createServer((request, response) => proxy.web(request, response)).listen(+process.env.PORT, "127.0.0.1");
