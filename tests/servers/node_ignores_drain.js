// Node with the usual mistake: what response.write returns is ignored.
const http = require('node:http');

const port = Number(process.argv[2]);

http.createServer((request, response) => {
  const size = Number(new URL(request.url, 'http://localhost').searchParams.get('size'));
  response.writeHead(200, { 'Content-Type': 'application/octet-stream' });
  let start = 0;
  const more = () => {
    for (const end = Math.min(size, start + 1048576); start < end; start += 16384) {
      response.write(Buffer.alloc(16384, start % 251));
    }
    if (start < size) setImmediate(more);
    else response.end();
  };
  more();
}).listen(port, '127.0.0.1');
