// Node as its guides say: a readable stream piped into the response, which waits for 'drain'.
const http = require('node:http');
const { Readable } = require('node:stream');
const { pipeline } = require('node:stream');

const port = Number(process.argv[2]);

function* chunks(size) {
  for (let start = 0; start < size; start += 16384) yield Buffer.alloc(16384, start % 251);
}

http.createServer((request, response) => {
  const size = Number(new URL(request.url, 'http://localhost').searchParams.get('size'));
  response.writeHead(200, { 'Content-Type': 'application/octet-stream' });
  pipeline(Readable.from(chunks(size), { objectMode: false }), response, () => {});
}).listen(port, '127.0.0.1');
