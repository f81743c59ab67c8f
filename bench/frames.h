/* Websockets as far as a client needs them that sends and gets short texts. */

#include <string.h>

/* Any key will do; this one and its answer are those of RFC 6455, section 1.3. */
#define KEY "dGhlIHNhbXBsZSBub25jZQ=="
#define ACCEPT "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

enum { TEXT = 0x81, PING = 0x89, PONG = 0x8a, MASKED = 0x80 };

/* A handshake, but for the port. */
#define HANDSHAKE \
    "GET / HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" \
    "Sec-WebSocket-Key: " KEY "\r\nSec-WebSocket-Version: 13\r\n\r\n"

/* A text message from a client, whose bytes must be masked. */
static size_t write_frame(char *to, int opcode, const char *payload, size_t length)
{
    static const unsigned char mask[4] = {0x37, 0xfa, 0x21, 0x3d};
    size_t head = 0;
    to[head++] = (char)opcode;
    if (length < 126) {
        to[head++] = (char)(MASKED | length);
    } else {
        to[head++] = (char)(MASKED | 126);
        to[head++] = (char)(length >> 8);
        to[head++] = (char)length;
    }
    memcpy(to + head, mask, 4);
    head += 4;
    for (size_t i = 0; i < length; i++)
        to[head + i] = payload[i] ^ mask[i % 4];
    return head + length;
}
