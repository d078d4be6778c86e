//! Every bound of the core, with its arithmetic and what happens when it is reached (I10).

/// Arguments in one request. Redis up to 6.2 closes the connection above 1,048,576 (6.2.16 networking.c:1934), and a lane must
/// never be closed by one client's request; above it the client gets Redis's own protocol error.
pub const REQUEST_ARGUMENTS_MAX: usize = 1_048_576;

/// Bytes of one bulk string: `proto-max-bulk-len` of Redis. Above it the client gets Redis's own protocol error.
pub const BULK_BYTES_MAX: usize = 512 * 1024 * 1024;

/// Requests below this are taken by every server: the least `proto-max-bulk-len` that Redis accepts.
pub const BULK_BYTES_CERTAIN: usize = 1024 * 1024;

/// Bytes of an inline request or of a header line: `PROTO_INLINE_MAX_SIZE` of Redis.
pub const INLINE_BYTES_MAX: usize = 64 * 1024;

/// Commands one session may have unanswered. Past it the session's input waits, so that a client which pipelines a hundred
/// thousand commands takes turns with the others.
pub const SESSION_IN_FLIGHT_MAX: u64 = 1024;

/// Bytes of requests one session may have unanswered, and bytes of replies it may have unread, before its input waits.
pub const SESSION_WINDOW_BYTES: usize = 1024 * 1024;

/// A bulk string of at least so many bytes that answers a plain read goes to its client while it comes; a smaller one as a whole. From here on keeping it
/// costs more than its copies: pages that were not in use.
pub const RELAY_BYTES_MIN: usize = 256 * 1024;

/// Bytes a session's transaction queue may hold before `EXEC`: the lane carries the block as one piece. Past it the queueing
/// command is answered with an error and `EXEC` aborts, as for any other error at queue time.
pub const MULTI_BYTES_MAX: usize = 64 * 1024 * 1024;

/// How often RANDOMKEY is asked again at once, in case it draws the reserved key: with one other key beside it, one answer in
/// 2^24 is nil all the same.
pub const RANDOM_KEYS_AGAIN: usize = 24;

/// Commands beyond the table whose description was learnt from a server, for as long as the process runs: some 200 bytes each. Past it
/// further ones are refused.
pub const LEARNT_COMMANDS_MAX: usize = 4096;

/// Keys of which the primary was asked how large they are, or what they hold, and did not answer. Each holds the lane for one question or one
/// `DUMP`; more wait as dirty keys.
pub const IMAGES_ASKED_MAX: usize = 128;

/// Large keys that are copied in pieces at a time. Each has a twin on the mirror and two pieces under way; more wait as dirty keys.
pub const COPIES_MAX: usize = 4;

/// Pieces of one copy on the mirror's lane that are not confirmed: the next is read while one is written.
pub const COPY_AHEAD_MAX: usize = 2;

/// Bytes of one piece of a large key, as far as the size of its elements is known: DUMP's speed of 7 nanoseconds a byte makes it 2 ms at most. An
/// element is never cut.
pub const COPY_PIECE_BYTES: usize = 256 * 1024;

/// Elements of one piece: as many members of a sorted set hold a server for a millisecond.
pub const COPY_PIECE_ITEMS: usize = 1024;

/// Copies in pieces of one key that end because of a write, before the key is copied whole.
pub const COPY_RESTARTS_MAX: u32 = 5;

/// Large keys that wait for a place, or because their copy has to begin anew; `mirror.dirty_keys_max` where that is less. Some 200 bytes each with
/// their names. Past it no further key is asked for an image, large or not, until one of them has its place; those asked for by then come on top.
pub const COPIES_RESTING_MAX: usize = 65_536;

/// Pending entries of a large stream that are held while it is copied, about 100 bytes each. A stream with more is copied whole.
pub const COPY_PENDING_MAX: usize = 16_384;

/// Bytes of images appended to the mirror and not yet confirmed, above which no further repair is asked for.
pub const IMAGE_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Keys a scan may have waiting for their image before it asks for the next page.
pub const SCAN_AHEAD_MAX: usize = 512;

/// Keys per page of a scan (`COUNT`).
pub const SCAN_PAGE: usize = 128;

/// How long a session whose client has closed its end waits while none of its commands is answered, microseconds. Past it, it is closed.
pub const ENDED_US: u64 = 5_000_000;

/// As many times as long it waits while it has replies that nobody reads: a socket whose reader takes 50 kB a second tells so every 23 s.
pub const UNREAD_LOOKS: u32 = 12;

/// Operations that must reach the mirror as barriers and wait for it. Past it the databases concerned are unsynced.
pub const MIRROR_BARRIERS_MAX: usize = 16;

/// Fingerprints of keys known to be equal: 2^20 slots of 8 bytes are 8 MiB. It forgets by overwriting, it never invents.
pub const SYNCED_SLOTS: usize = 1 << 20;

/// Databases a side may have: Redis allows more, managed services offer at most 64.
pub const DATABASES_MAX: usize = 256;

/// Connections to the primary that single sessions may hold for WATCH and WAIT. Past it the session that has waited longest with a
/// WATCH loses its connection: its EXEC answers nil (H37). Servers allow 10,000 connections by default.
pub const OWN_CONNECTIONS_MAX: usize = 256;

/// Bytes of requests with which a flip hands over what is watched, while everybody is held: some milliseconds. A watcher beyond them is answered nil.
pub const HANDED_BYTES_MAX: usize = 2 << 20;

/// Of those, connections kept for the next session when nobody needs them.
pub const OWN_CONNECTIONS_FREE: usize = 16;

/// Sessions that may have subscriptions or MONITOR, each with a connection of its own to the primary. Past it they are answered with an
/// error. Servers allow 10,000 connections by default.
pub const FEEDS_MAX: usize = 10_000;

/// Connections to the other side that a flip opens for subscribers at the same time.
pub const FEEDS_OPENING_MAX: usize = 64;

/// Channels and patterns one session may be subscribed to. Past it SUBSCRIBE is answered with an error.
pub const SUBSCRIPTIONS_MAX: usize = 65_536;

/// Keys a session under CLIENT TRACKING NOLOOP may have written since its last read. What is written past it is declared invalid to
/// the session too.
pub const OWN_WRITES_MAX: usize = 4096;

/// Keys in doubt that a flip heals while it holds everybody, when there is no moment without any: one batch.
pub const HELD_REPAIRS_MAX: usize = 64;

/// Keys one session may watch. Past it WATCH is answered with an error.
pub const WATCHED_KEYS_MAX: usize = 65_536;

/// Images that may fail for one key in a row before it is set aside as unmirrorable.
pub const IMAGE_ATTEMPTS_MAX: u32 = 5;

/// Scripts and functions remembered, so that the other side has them before a flip (H40). Past it, or past the bytes below, further ones
/// are not remembered, and readiness says so.
pub const SCRIPTS_MAX: usize = 4096;

/// Bytes of script bodies remembered: 4096 of 8 KiB.
pub const SCRIPTS_BYTES_MAX: usize = 32 * 1024 * 1024;

/// How long a lane goes on reporting written keys after its last script. Reports cost the primary about a microsecond per write
/// of any connection, and us an image for each key that somebody else writes.
pub const TRACKING_IDLE_US: u64 = 10_000_000;

/// Bytes of one image of a key that scripts write, above which readiness warns: DUMP and RESTORE of a million bytes hold a server
/// for some milliseconds, at each round of healing (H59).
pub const SCRIPT_IMAGE_WARN_BYTES: usize = 1024 * 1024;

/// As above, for a finding that says: do not go on like this. A sorted set of a million members (20 MB) takes 160 ms to DUMP and 600 ms
/// to RESTORE.
pub const SCRIPT_IMAGE_BLOCK_BYTES: usize = 16 * 1024 * 1024;

/// Findings that rooms push to the report of readiness; past it the newest are left out.
pub const FINDINGS_MAX: usize = 256;

/// Keys of creating writes remembered until the event connection has answered behind them, for the case that it is lost. Past it
/// a lost event connection puts the databases with volatile keys in doubt as a whole.
pub const UNCONFIRMED_KEYS_MAX: usize = 65_536;

/// Records of the journal that its tail passes in one tick of 10 ms: 800,000 a second. Where more is written for long, the ring fills,
/// and a restart copies everything.
pub const INTENTS_RETIRED_MAX: usize = 8192;

/// Least time between two counts that are raised on the servers, microseconds (H11): what a failover may have forgotten is known as
/// exactly as this.
pub const RECENT_EVERY_US: u64 = 100_000;

/// A count is raised without a write after this, microseconds: where a server does not list its clients, that it rises is the one
/// sign by which another proxy knows that this one lives (H10).
pub const RECENT_BEAT_US: u64 = 5_000_000;

/// Counts remembered: a minute of them. A server that comes back with an older one is copied as a whole, or has lost its data.
pub const RECENT_COUNTS_MAX: usize = 600;

/// Keys of a loss that are named to people.
pub const RECENT_SAMPLES: usize = 8;

/// Keys remembered because a connection that could not be killed may still write them; past it everything is copied anew.
pub const ZOMBIE_KEYS_MAX: usize = 65_536;

/// Bytes of a blocking command: its keys are kept for as long as its session is parked. Past it the command is refused.
pub const BLOCKING_BYTES_MAX: usize = 64 * 1024;

/// Places in all queues of parked sessions (one per key that a session waits for). At about 200 bytes each they are 200 MiB; past it
/// a blocking command is refused.
pub const PARKED_PLACES_MAX: usize = 1_000_000;

/// Retries behind a write of which is not known how many waiters it can serve (RENAME, SORT STORE, a script). Each that succeeds is
/// followed by another, so the bound costs round trips and no waiter.
pub const SERVE_UNKNOWN_MAX: usize = 4;

/// Look-ups per tick for writers that bypass the proxy: with a tick of 10 ms, 800 a second, however many sessions and keys there are.
pub const LOOKS_PER_TICK: usize = 8;

/// Least time between two look-ups of one key, microseconds.
pub const LOOK_EVERY_US: u64 = 100_000;

/// The same while no other writer was seen for [`LOOK_KEEN_US`]: each look that finds nothing doubles the time, up to this.
pub const LOOK_EVERY_MAX_US: u64 = 1_000_000;

/// How long keys are looked at at the full rate after a writer was found that bypasses the proxy, microseconds.
pub const LOOK_KEEN_US: u64 = 60_000_000;

/// How long a lane with a script in flight waits before its server is asked whether it is busy, and the least time between two such
/// questions, microseconds. A server is not busy before its own limit (`lua-time-limit`, 5 seconds by default).
pub const BUSY_LOOK_US: u64 = 20_000;

/// Keys that verify reads in one go: 64 keys of a kilobyte hold a server for about a fifth of a millisecond.
pub const VERIFY_BATCH_KEYS: usize = 64;

/// The same while clients use the primary.
pub const VERIFY_BATCH_KEYS_BUSY: usize = 16;

/// Bytes of values that verify reads in one go, as far as the primary told their sizes.
pub const VERIFY_BATCH_BYTES: usize = 512 * 1024;

/// Keys that verify has under way on both lanes together: four batches keep both servers at work.
pub const VERIFY_WINDOW_KEYS: usize = 4 * VERIFY_BATCH_KEYS;

/// The same while clients use the primary.
pub const VERIFY_WINDOW_KEYS_BUSY: usize = 2 * VERIFY_BATCH_KEYS_BUSY;

/// Bytes that verify has under way on one lane. A value that grows between the question for its size and its reading passes the bound once.
pub const VERIFY_WINDOW_BYTES: usize = 4 * 1024 * 1024;

/// Keys per page when verify walks a side (`COUNT`).
pub const VERIFY_PAGE: usize = 256;

/// Keys found and not yet read, above which no further page is asked for.
pub const VERIFY_AHEAD_MAX: usize = 1024;

/// Keys that could not be judged and are read again later, above which no further page is asked for.
pub const VERIFY_LATER_MAX: usize = 4096;

/// Bytes of one piece of a large string.
pub const VERIFY_PIECE_BYTES: usize = 256 * 1024;

/// Elements of one piece of a large collection.
pub const VERIFY_PIECE_ITEMS: usize = 512;

/// How often a key that is in doubt, or dies, is read again before it counts as unverifiable: with the pauses between, some twenty seconds.
pub const VERIFY_TRIES_MAX: u32 = 48;

/// Keyed fingerprints of the keys that a pass has read on the primary: 2^21 slots of 8 bytes are 16 MiB while it runs. Forgotten ones are asked
/// for again when the mirror is walked.
pub const VERIFY_SEEN_SLOTS: usize = 1 << 21;

/// Slots of 8 bytes of each of the two tables over keys in doubt that are on the disk, made when the first one is: 2 times 8 MiB. With five million
/// keys there, one other key in ten is taken for one of them, and copied.
pub const SPILL_SLOTS: usize = 1 << 20;

/// Keys that go to the spill file at a time.
pub const SPILL_BATCH_KEYS: usize = 4096;

/// Keys in doubt past the bound while a batch is on its way to the disk; past that, a database is in doubt as a whole.
pub const SPILL_SLACK_KEYS: usize = 16_384;

/// Bytes of the spill file that are read back at a time; more than the longest record.
pub const UNSPILL_BYTES: usize = 64 * 1024;

/// Writes that are remembered for people, each with a fingerprint of its key: 32 bytes each are 2 MiB. A power of two.
pub const RECENT_WRITES: usize = 1 << 16;

/// Clients that have gone of which name and address are remembered, for who asks whose those writes were.
pub const RECENT_CLIENTS: usize = 1024;

/// Writes of one key that are told.
pub const EXPLAINED_WRITES: usize = 16;

/// Keys in doubt that are told at a time.
pub const DIRTY_LISTED_MAX: usize = 10_000;

/// Divergences that are kept for people; the oldest goes. All are counted.
pub const DIVERGENCES_MAX: usize = 1024;

/// Keys found on the mirror alone that a repair can be asked to delete; past it the next verify finds the rest.
pub const EXTRAS_MAX: usize = 65_536;

/// Shadow reads that the mirror has not answered; some 200 bytes each. Past it reads are not compared, and counted as skipped.
pub const SHADOW_IN_FLIGHT_MAX: usize = 4096;

/// Bytes of a shadow read's request, and of its reply on the primary, above which it is not compared: a reply of a megabyte holds the mirror's
/// lane for about a millisecond.
pub const SHADOW_READ_BYTES_MAX: usize = 1024 * 1024;

/// Bytes of replies that the mirror owes for shadow reads, as the primary's were. Past it reads are not compared.
pub const SHADOW_WINDOW_BYTES: usize = 8 * 1024 * 1024;

/// Age of the mirror's oldest unanswered request, microseconds, above which reads are not compared: an eighth of what effects may wait
/// before they collapse into dirty keys.
pub const SHADOW_AGE_MAX_US: u64 = 60_000;

/// Prefixes of keys by which shadow reads are counted.
pub const SHADOW_PREFIXES_MAX: usize = 32;

/// Keys of reads that differed, examined or waiting for it. Past it such a read counts as unexplained without an exam.
pub const SHADOW_EXAMS_MAX: usize = 256;

/// Of those, keys on the lanes at a time.
pub const SHADOW_EXAMS_AT_ONCE: usize = 8;

/// Microseconds between two writes to the mirror, where no client waits for what is to be written: a write and a read a millisecond for all
/// effects cost less than one of each with every turn. What comes later than that goes at once; the last ones of a burst may wait for the tick.
pub const LINGERING_US: u64 = 1_000;

/// Bytes of them with which they go at once.
pub const LINGERING_BYTES: u64 = 32 * 1024;
