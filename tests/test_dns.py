"""The name server of a simulated VM."""

from rehearsal.google import dns

HOSTS = {"llm-service-1a2b3c4-ez.a.run.app": "127.1.0.1"}


def query(name: str, kind: int) -> bytes:
    """A question as a resolver sends it."""
    labels = b"".join(bytes([len(it)]) + it.encode() for it in name.split("."))
    return b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00" + labels + bytes([0, 0, kind, 0, 1])


def test_a_name_resolves_from_the_moment_it_exists() -> None:
    """Also one that nobody knew when the machine booted, in whatever case."""
    told = dns.reply(query("LLM-service-1a2b3c4-ez.a.run.app", 1), HOSTS.get)

    assert told[:4] == b"\x12\x34\x81\x80"
    assert told.endswith(b"\x00\x04\x7f\x01\x00\x01")


def test_what_does_not_exist_does_not_resolve() -> None:
    """NXDOMAIN for an unknown name; no error and no address for another family of a known one."""
    assert dns.reply(query("nothing.example.com", 1), HOSTS.get)[3] & 0xF == 3
    aaaa = dns.reply(query("llm-service-1a2b3c4-ez.a.run.app", 28), HOSTS.get)
    assert (aaaa[3] & 0xF, aaaa[6:8]) == (0, b"\x00\x00")
