/* What one turn of the fan-out does for a few hundred connections: finds what each has not seen, writes it as one
 * WebSocket frame, and hands the frames to their sockets.
 *
 * It does for most connections most of the time what delivery.py, frames.py and moved.py do for every connection at
 * any time, and the text is the same to the byte. What is out of the ordinary (a snapshot is owed, an event waits, a
 * position was restated or has no price, anything is converted at a rate, …) it leaves untouched and says so.
 *
 * The records are those of tables.py, whose layout compiled.py holds against `fanout_layout` before it uses any of
 * this. Every number that leads from one table into another is held against that table's length, and rows against the
 * user they belong to.
 */

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/types.h>

#ifndef SOURCE
#define SOURCE "unknown"
#endif

typedef __int128 wide;
typedef unsigned __int128 magnitude;

#define UNITS 1000000000000000000ULL
#define VAST ((int64_t)1 << 61)
#define HEAD_BYTES 96
#define MARK_BYTES 96
#define PRICE_BYTES 384

struct row {
    int64_t high;
    uint64_t low;
    int64_t changed;
    double cost;
    int64_t cost_high;
    uint64_t cost_low;
    int64_t owner, version;
    int32_t mark, head_length;
    char head[HEAD_BYTES];
};

struct user {
    int64_t high;
    uint64_t low;
    int64_t changed;
    int64_t realized_high;
    uint64_t realized_low;
    int64_t base_high;
    uint64_t base_low;
    int64_t deposits_high;
    uint64_t deposits_low;
    int64_t serial, restated, reset;
    int32_t rows_at, rows_count;
    uint8_t has_base, fees_are_complete, is_plain;
};

struct mark {
    int64_t flagged;
    uint8_t is_known, is_stale;
    int32_t length;
    char text[MARK_BYTES];
};

struct price {
    int64_t changed, event_ms;
    int32_t length;
    char text[PRICE_BYTES];
};

struct connection {
    int64_t sent, pnl_sent, positions_sent, step, flushes, reset, serial;
    int32_t status, lane, user, watched_at, watched_count;
    uint8_t visible, wants_pnl, wants_positions;
    uint8_t awaits_prices, awaits_pnl, awaits_positions;
    uint8_t has_events, is_overdue, is_closed, is_bound;
};

const int64_t fanout_layout[] = {
    sizeof(struct row), offsetof(struct row, head), offsetof(struct row, owner),
    sizeof(struct user), offsetof(struct user, rows_at), offsetof(struct user, is_plain),
    sizeof(struct mark), offsetof(struct mark, text), offsetof(struct mark, length),
    sizeof(struct price), offsetof(struct price, text), offsetof(struct price, length),
    sizeof(struct connection), offsetof(struct connection, status), offsetof(struct connection, is_bound),
};

const char fanout_source[] = SOURCE;

/* One lane: the tables of a P&L shard, and its place in the stream. */
struct lane {
    const struct row *rows;
    int64_t rows_length;
    const struct user *users;
    int64_t users_length;
    const struct mark *marks;
    int64_t marks_length;
    const int32_t *lists;
    int64_t lists_length;
    int64_t epoch, seq, as_of_ms, event_ms, step, silenced, is_silent;
};

/* What all lanes share. */
struct stream {
    const struct lane *lanes;
    int64_t lanes_length;
    const struct price *prices;
    int64_t prices_length;
    struct connection *connections;
    int64_t connections_length;
    const int32_t *lists;
    int64_t lists_length;
    int64_t ordinal, flushes, health;
    int64_t written, merged;
};

/* What became of one connection: the bytes from `start` to `end` are its frame, whose text begins at `text`. */
struct outcome {
    int64_t start, text, end;
    int32_t kind, gone;
};

enum { NOTHING, FRAME, ASK, BREACH };

/* Text. */

static char *put(char *at, const char *text, size_t length)
{
    memcpy(at, text, length);
    return at + length;
}

#define SAY(at, literal) put(at, literal, sizeof(literal) - 1)

static char *put_whole(char *at, uint64_t number)
{
    char digits[20];
    int used = 0;
    do {
        digits[used++] = (char)('0' + number % 10);
        number /= 10;
    } while (number);
    while (used)
        *at++ = digits[--used];
    return at;
}

static char *put_number(char *at, int64_t number)
{
    if (number < 0)
        *at++ = '-';
    return put_whole(at, number < 0 ? -(uint64_t)number : (uint64_t)number);
}

/* So many digits, zeros in front included. */
static char *put_digits(char *at, uint64_t number, int digits)
{
    for (int i = digits; i--;) {
        at[i] = (char)('0' + number % 10);
        number /= 10;
    }
    return at + digits;
}

static wide joined(int64_t high, uint64_t low)
{
    return (wide)((magnitude)(uint64_t)high << 64 | low);
}

static magnitude absolute(wide value)
{
    return value < 0 ? -(magnitude)value : (magnitude)value;
}

/* An amount in units of 1e-18 as decimals.format_units writes it; NULL where its whole part does not fit 64 bits. */
static char *put_units(char *at, wide value)
{
    magnitude units = absolute(value), whole = units / UNITS;
    uint64_t rest = (uint64_t)(units - whole * UNITS);
    if (whole >> 64)
        return NULL;
    if (value < 0)
        *at++ = '-';
    at = put_whole(at, (uint64_t)whole);
    if (rest) {
        *at++ = '.';
        at = put_digits(at, rest, 18);
        while (at[-1] == '0')
            at--;
    }
    return at;
}

/* What the part is of the whole, as valuation.fraction writes it in JSON; NULL where that is too large for here. */
static char *put_fraction(char *at, wide part, wide of)
{
    magnitude whole = absolute(of), parts = absolute(part);
    if (!whole)
        return SAY(at, "null");
    if (parts >> 106 || whole >> 125)
        return NULL;
    magnitude millionths = (parts * 2000000 + whole) / (2 * whole);
    if (millionths >> 63)
        return NULL;
    *at++ = '"';
    if (part < 0 && millionths)
        *at++ = '-';
    at = put_whole(at, (uint64_t)millionths / 1000000);
    *at++ = '.';
    at = put_digits(at, (uint64_t)millionths % 1000000, 6);
    *at++ = '"';
    return at;
}

static char *put_flag(char *at, int is_so)
{
    return is_so ? SAY(at, "true") : SAY(at, "false");
}

/* One connection. */

static int is_vast(int64_t high)
{
    return (high ^ (high >> 63)) >= VAST;
}

static int reaches(int64_t at, int64_t count, int64_t length)
{
    return at >= 0 && count >= 0 && at + count <= length;
}

/* A user's rows, looked at once before anything is written. */
struct holdings {
    const int32_t *rows;
    int32_t count;
    int is_stale;
    int64_t flagged;
};

static int look_at_rows(const struct lane *lane, const struct user *user, struct holdings *found)
{
    if (!reaches(user->rows_at, user->rows_count, lane->lists_length))
        return BREACH;
    *found = (struct holdings){lane->lists + user->rows_at, user->rows_count, 0, 0};
    for (int32_t i = 0; i < found->count; i++) {
        if (!reaches(found->rows[i], 1, lane->rows_length))
            return BREACH;
        const struct row *row = &lane->rows[found->rows[i]];
        if (row->owner != user->serial || !reaches(row->mark, 1, lane->marks_length))
            return BREACH;
        const struct mark *mark = &lane->marks[row->mark];
        if (!row->changed || row->head_length < 0 || !mark->is_known || mark->length < 0 || is_vast(row->high))
            return ASK;
        found->is_stale |= mark->is_stale;
        if (mark->flagged > found->flagged)
            found->flagged = mark->flagged;
    }
    return FRAME;
}

static char *put_prices(char *at, const struct stream *stream, const struct connection *here, int64_t *event_ms)
{
    int is_first = 1;
    for (int32_t i = 0; i < here->watched_count; i++) {
        int32_t number = stream->lists[here->watched_at + i];
        if (!reaches(number, 1, stream->prices_length))
            return NULL;
        const struct price *price = &stream->prices[number];
        if (price->changed <= here->sent)
            continue;
        if (price->length < 0)
            return NULL;
        at = is_first ? SAY(at, ",\"prices\":[") : SAY(at, ",");
        at = put(at, price->text, (size_t)price->length);
        if (is_first || price->event_ms > *event_ms)
            *event_ms = price->event_ms;
        is_first = 0;
    }
    return is_first ? at : SAY(at, "]");
}

static char *put_totals(char *at, const struct lane *lane, const struct user *user, const struct holdings *held)
{
    wide unrealized = joined(user->high, user->low);
    wide total = unrealized + joined(user->realized_high, user->realized_low);
    at = SAY(at, ",\"pnl\":{\"unrealized_pnl\":\"");
    if (!(at = put_units(at, unrealized)))
        return NULL;
    at = SAY(at, "\",\"realized_pnl\":\"");
    if (!(at = put_units(at, joined(user->realized_high, user->realized_low))))
        return NULL;
    at = SAY(at, "\",\"total_pnl\":\"");
    if (!(at = put_units(at, total)))
        return NULL;
    if (user->has_base) {
        at = SAY(at, "\",\"day_pnl\":\"");
        if (!(at = put_units(at, total - joined(user->base_high, user->base_low))))
            return NULL;
        at = SAY(at, "\",\"equity\":\"");
    } else {
        at = SAY(at, "\",\"day_pnl\":null,\"equity\":\"");
    }
    if (!(at = put_units(at, total + joined(user->deposits_high, user->deposits_low))))
        return NULL;
    at = SAY(at, "\",\"is_complete\":");
    at = put_flag(at, user->fees_are_complete);
    at = SAY(at, ",\"is_stale\":");
    at = put_flag(at, lane->is_silent ? held->count > 0 : held->is_stale);
    return SAY(at, ",\"unpriced\":[]}");
}

static char *put_row(char *at, const struct lane *lane, const struct row *row)
{
    const struct mark *mark = &lane->marks[row->mark];
    wide value = joined(row->high, row->low);
    at = put(at, row->head, (size_t)row->head_length);
    at = put(at, mark->text, (size_t)mark->length);
    if (!(at = put_units(at, value)))
        return NULL;
    at = SAY(at, "\",\"unrealized_pnl_pct\":");
    if (!(at = put_fraction(at, value, joined(row->cost_high, row->cost_low))))
        return NULL;
    at = SAY(at, ",\"is_stale\":");
    at = put_flag(at, lane->is_silent || mark->is_stale);
    at = SAY(at, ",\"version\":");
    at = put_number(at, row->version);
    return SAY(at, "}");
}

static char *put_rows(char *at, const struct lane *lane, const struct holdings *held, int64_t since)
{
    int is_first = 1;
    for (int32_t i = 0; i < held->count; i++) {
        const struct row *row = &lane->rows[held->rows[i]];
        if (row->changed <= since && lane->silenced <= since && lane->marks[row->mark].flagged <= since)
            continue;
        at = is_first ? SAY(at, ",\"positions\":[") : SAY(at, ",");
        if (!(at = put_row(at, lane, row)))
            return NULL;
        is_first = 0;
    }
    return is_first ? at : SAY(at, "]");
}

static int is_ordinary(const struct stream *stream, const struct connection *here)
{
    return here->is_bound && !here->is_closed && !here->has_events && !here->is_overdue && !here->awaits_prices &&
           !here->awaits_pnl && !here->awaits_positions && here->status == stream->health &&
           reaches(here->lane, 1, stream->lanes_length) &&
           reaches(here->watched_at, here->watched_count, stream->lists_length);
}

static int find_user(const struct lane *lane, const struct connection *here, const struct user **found)
{
    if (!reaches(here->user, 1, lane->users_length))
        return ASK;
    const struct user *user = &lane->users[here->user];
    if (!user->serial || user->serial != here->serial || user->reset != here->reset || user->restated > here->sent)
        return ASK;
    if (!user->is_plain || !user->changed || is_vast(user->high) || is_vast(user->realized_high) ||
        is_vast(user->base_high) || is_vast(user->deposits_high))
        return ASK;
    *found = user;
    return FRAME;
}

/* The header of an unfragmented, unmasked text frame, ending where its text begins. */
static char *put_header(char *text, uint64_t length)
{
    char *at = text - (length < 126 ? 2 : length < 65536 ? 4 : 10);
    at[0] = (char)0x81;
    if (length < 126) {
        at[1] = (char)length;
        return at;
    }
    int bytes = length < 65536 ? 2 : 8;
    at[1] = bytes == 2 ? 126 : 127;
    for (int i = 0; i < bytes; i++)
        at[2 + i] = (char)(length >> 8 * (bytes - 1 - i));
    return at;
}

#define LONGEST_HEADER 10
#define LONGEST_START 256
#define LONGEST_TOTALS 512
#define LONGEST_ROW (HEAD_BYTES + MARK_BYTES + 256)

/* Above what the frame of a connection can take. */
static int64_t most_bytes(const struct connection *here, const struct holdings *held)
{
    return LONGEST_HEADER + LONGEST_START + LONGEST_TOTALS + (int64_t)here->watched_count * (PRICE_BYTES + 1) +
           (int64_t)held->count * LONGEST_ROW;
}

/* Writes what comes before the members, to end at `end`; gives where it begins. */
static char *put_start(char *end, const struct stream *stream, const struct connection *here, const struct lane *lane,
                       int64_t event_ms)
{
    int64_t merged = stream->flushes - here->flushes;
    char start[LONGEST_START], *at = SAY(start, "{\"type\":\"update\",\"epoch\":");
    at = put_number(at, lane->epoch);
    at = SAY(at, ",\"seq\":");
    at = put_number(at, lane->seq);
    at = SAY(at, ",\"as_of_ms\":");
    at = put_number(at, lane->as_of_ms);
    at = SAY(at, ",\"event_ms\":");
    at = put_number(at, event_ms ? event_ms : lane->event_ms);
    at = SAY(at, ",\"merged\":");
    at = put_number(at, merged > 1 ? merged : 1);
    return memcpy(end - (at - start), start, (size_t)(at - start));
}

/* Writes the text of an update somewhere behind `*text`, which is moved to where it begins; gives its end: the same
 * where there is nothing to say, NULL where it is not to be said from here. */
static char *put_update(char **text, const struct stream *stream, const struct connection *here,
                        const struct lane *lane, const struct user *user, const struct holdings *held)
{
    int64_t since = here->sent, event_ms = 0;
    int64_t pnl_since = here->pnl_sent > since ? here->pnl_sent : since;
    int64_t positions_since = here->positions_sent > since ? here->positions_sent : since;
    char *members = *text + LONGEST_START, *at = members;
    if (here->visible && !(at = put_prices(at, stream, here, &event_ms)))
        return NULL;
    if (here->wants_pnl &&
        (user->changed > pnl_since || lane->silenced > pnl_since || held->flagged > pnl_since) &&
        !(at = put_totals(at, lane, user, held)))
        return NULL;
    if (here->wants_positions && here->visible && !(at = put_rows(at, lane, held, positions_since)))
        return NULL;
    if (at == members)
        return *text;
    *text = put_start(members, stream, here, lane, event_ms);
    return SAY(at, "}");
}

static int serve(struct stream *stream, struct connection *here, char *out, int64_t room, struct outcome *outcome)
{
    const struct user *user = NULL;
    struct holdings held = {0};
    if (!is_ordinary(stream, here))
        return ASK;
    const struct lane *lane = &stream->lanes[here->lane];
    if (here->sent == stream->ordinal || here->step == lane->step)
        return NOTHING;
    if (here->wants_pnl || here->wants_positions) {
        int kind = find_user(lane, here, &user);
        if (kind == FRAME)
            kind = look_at_rows(lane, user, &held);
        if (kind != FRAME)
            return kind;
    }
    if (most_bytes(here, &held) > room)
        return ASK;
    char *text = out + LONGEST_HEADER, *end = put_update(&text, stream, here, lane, user, &held);
    if (!end)
        return ASK;
    int64_t merged = stream->flushes - here->flushes;
    here->sent = stream->ordinal;
    here->flushes = stream->flushes;
    if (end == text)
        return NOTHING;
    here->step = lane->step;
    stream->written++;
    stream->merged += merged;
    outcome->text = text - out;
    outcome->start = put_header(text, (uint64_t)(end - text)) - out;
    outcome->end = end - out;
    return FRAME;
}

/* Writes the frames of the connections at `seats` into `out`; gives how many were looked at. It stops early where a
 * full-sized frame would find no room any more; the first always has room, or is to be asked for elsewhere. */
int64_t fanout_write(struct stream *stream, const int32_t *seats, int64_t count, char *out, int64_t size,
                     int64_t room_each, struct outcome *outcomes)
{
    int64_t used = 0;
    for (int64_t i = 0; i < count; i++) {
        if (i && size - used < room_each)
            return i;
        struct outcome *outcome = &outcomes[i];
        *outcome = (struct outcome){0};
        if (!reaches(seats[i], 1, stream->connections_length)) {
            outcome->kind = BREACH;
            continue;
        }
        outcome->kind = serve(stream, &stream->connections[seats[i]], out + used, size - used, outcome);
        if (outcome->kind == FRAME) {
            outcome->start += used;
            outcome->text += used;
            outcome->end += used;
            used = outcome->end;
        }
    }
    return count;
}

/* Hands frames to their sockets without waiting. `gone` tells how many bytes of each went, none where it failed or
 * where the descriptor is negative. */
void fanout_send(const char *out, struct outcome *outcomes, const int32_t *descriptors, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        if (outcomes[i].kind != FRAME || descriptors[i] < 0)
            continue;
        size_t length = (size_t)(outcomes[i].end - outcomes[i].start);
        ssize_t gone;
        do {
            gone = send(descriptors[i], out + outcomes[i].start, length, MSG_DONTWAIT);
        } while (gone < 0 && errno == EINTR);
        outcomes[i].gone = gone > 0 ? (int32_t)gone : 0;
    }
}
