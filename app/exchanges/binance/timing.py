"""Every duration and rate of the client, in seconds unless the name says otherwise."""

import msgspec


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """Binance's rules with a margin; tests make them small.

    Binance: at most 5 messages per second and connection, pongs included; 300
    connects in five minutes; a ping each 20 s; a connection ends after 24 hours.
    """

    open_s: float = 10.0
    """From the first packet to the end of the WebSocket handshake."""
    ack_s: float = 10.0
    """From a SUBSCRIBE to its answer."""
    first_data_s: float = 8.0
    """From the handshake to the first data: until then a connection is not healthy."""
    stale_s: float = 5.0
    """Without data for so long a live connection is stale ..."""
    data_age_s: float = 10.0
    """... and without data for so long it is given up."""
    silence_s: float = 60.0
    """Without any frame, pings included, for so long a connection is given up."""
    close_s: float = 1.0
    """For the closing handshake of a connection that has a successor."""
    rotate_after_s: float = 23 * 3600
    """Age at which a connection gets a successor; shortened by up to ``rotate_jitter``."""
    rotate_jitter: float = 0.05
    backoff_base_s: float = 0.5
    backoff_cap_s: float = 30.0
    connects: int = 20
    connects_window_s: float = 25.0
    """240 in five minutes, but never all of them in the first."""
    control_messages: int = 4
    control_window_s: float = 1.0
    batch: int = 200
    """Streams in one SUBSCRIBE."""
    listing_every_s: float = 600.0
    listing_gap_s: float = 30.0
    """The least time between two listings, however often the connection breaks."""
    snapshot_gap_s: float = 5.0
    """The least time between two snapshots of all prices."""
    ask_every_s: float = 1.0
    """The least time between two questions for quiet symbols."""
    ask_by_name: int = 100
    """More quiet symbols than this are asked for with all others: it costs the same."""
    doubt_after_s: float = 30.0
    """A symbol whose book no stream has brought for so long may be halted ..."""
    doubt_every_s: float = 60.0
    """... and while any may be, or is, this is how often the listing is asked for."""
    clock_every_s: float = 10.0
    rest_s: float = 20.0
    """For one REST call, from its first packet to its last."""
    linger_s: float = 15.0
    """How long a symbol is followed after nobody wants it: a reloaded page costs no resubscription."""
