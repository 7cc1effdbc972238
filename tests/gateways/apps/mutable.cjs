// SPDX-License-Identifier: Apache-2.0
// Portkey 1.15.2 changes the headers of fetch's answer, which node refuses: give it an answer that may be changed.
const fetched = globalThis.fetch;
globalThis.fetch = async (...asked) => {
  const answer = await fetched(...asked);
  return new Response(answer.body, { status: answer.status, headers: new Headers(answer.headers) });
};
