"""Define responses of a hostile server: statuses, headers and compressed bodies."""

import zlib

from hypothesis import strategies as st

# The server sends 1.5 MB. A client that decompresses without a limit gets 1.5 GB.
BOMB_MIB = 1_500
HEADERS = st.dictionaries(
    st.sampled_from(["Retry-After", "Content-Encoding", "Location", "WWW-Authenticate", "Content-Type", "Date"]),
    st.sampled_from(
        ["9" * 400, "-1", "gzip", "br", "identity", "https://evil.example/", 'Bearer claims="x"', "text/html", "x"]
    ),
    max_size=2,
)
STATUSES = st.sampled_from([200] * 6 + [204, 301, 302, 400, 401, 403, 404, 409, 429, 500, 503, 599])


def make_bomb(mebibytes: int) -> bytes:
    """Return that many MiB of `x` as a deflated stream (zlib format, RFC 1950), without its checksum at the end."""
    packer = zlib.compressobj(9)
    first = packer.compress(b"x" * 2**20) + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(b"x" * 2**20) + packer.flush(zlib.Z_FULL_FLUSH)
    return first + again * (mebibytes - 1)
