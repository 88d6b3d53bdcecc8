// node all_at_once.js URL COUNT: what a hobbyist writes. Prints how many answers had which status.
const [url, count] = process.argv.slice(2);
const body = new Float32Array(32);
const headers = { "Inference-Header-Content-Length": "0" };
const ask = async () => {
  const answer = await fetch(url, { method: "POST", body, headers });
  await answer.arrayBuffer();
  return answer.status;
};
const statuses = await Promise.all(Array.from({ length: Number(count) }, ask));
const counts = {};
for (const status of statuses) counts[status] = (counts[status] ?? 0) + 1;
console.log(JSON.stringify(counts));
