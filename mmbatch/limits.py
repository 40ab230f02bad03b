"""What one replica of the service takes on, how it batches, and when it gives up."""

from dataclasses import dataclass

from mmbatch.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Of one replica."""

    batch_size: int = 32
    """Products that go through the networks together, at most."""
    batch_wait: float = 0.005
    """Seconds that an incomplete batch waits for further products."""
    waiting: int = 128
    """Requests under way at the same time; further ones are answered with 429."""
    seconds: float = 30.0
    """For one request, with the download of its image; after that it is answered with 504."""
    body_bytes: int = 16 << 20
    """Bytes of one request, whose image is base64: 4 bytes for 3. Larger ones are answered with 413."""
    text_bytes: int = 1 << 20
    """Bytes of title and description together, as UTF-8; longer ones are answered with 413."""

    def require_usable(self) -> None:
        """Raise `InputError` for a limit that lets nothing through."""
        for name in ("batch_size", "waiting", "seconds", "body_bytes", "text_bytes"):
            if getattr(self, name) <= 0:
                raise InputError(f"--limits.{name.replace('_', '-')} {getattr(self, name)}: expected more than 0")
        if self.batch_wait < 0:
            raise InputError(f"--limits.batch-wait {self.batch_wait}: expected 0 or more")
