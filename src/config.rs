//! Every limit of the server, by name. What an operator can set is in [`crate::cli`].

use std::time::Duration;

/// Commands that may wait for one tenant's appender; more are refused with 503.
pub const APPEND_QUEUE: usize = 2_048;
/// Commands that one transaction takes at most.
pub const APPEND_BATCH: usize = 512;
/// How long a command may wait for its answer before the caller is told 503.
pub const APPEND_DEADLINE: Duration = Duration::from_secs(15);
/// How long it is tried to find out how a commit ended whose connection broke.
pub const SETTLE_DEADLINE: Duration = Duration::from_secs(30);
/// How long an appender without work stays.
pub const APPENDER_IDLE: Duration = Duration::from_secs(60);
/// How long an appender decides nothing before it has the lock, once it met a log that another server had moved.
pub const APPENDER_WARY: Duration = Duration::from_secs(1);
/// Aggregates whose states an appender keeps in memory.
pub const CACHED_AGGREGATES: usize = 8_192;
/// Events of other servers that an appender folds into its cache; past that it forgets the cache.
pub const CATCH_UP_EVENTS: i64 = 4_096;
/// Events of one subject after which its state may be written as a snapshot.
pub const SNAPSHOT_EVENTS: u32 = 128;
/// Ways of writing read models that came together in a batch, and are remembered as such.
pub const COMBINATIONS: usize = 64;
/// Statements that an appending connection keeps prepared; beyond that it begins anew.
pub const PREPARED_STATEMENTS: usize = 512;
/// Connections for appending.
pub const APPEND_CONNECTIONS: usize = 8;
/// Connections for everything else.
pub const READ_CONNECTIONS: usize = 16;
/// How long to wait for a connection.
pub const CONNECTION_DEADLINE: Duration = Duration::from_secs(5);
/// How long one statement may run in the database.
pub const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a query is waited for, in case the database says nothing at all: longer than a statement may run there.
pub const ANSWER_DEADLINE: Duration = Duration::from_secs(12);
/// The same for a whole batch of an appender.
pub const BATCH_DEADLINE: Duration = Duration::from_secs(30);
/// How long a statement may wait for a lock.
pub const LOCK_TIMEOUT: Duration = Duration::from_secs(8);
/// How long a transaction may stay open without a statement.
pub const IDLE_IN_TRANSACTION_TIMEOUT: Duration = Duration::from_secs(15);
/// A signed note that is read, in bytes.
pub const NOTE_BYTES: usize = 1_000_000;
/// Signatures of a note.
pub const NOTE_SIGNATURES: usize = 100;
/// The key that a note is verified with, as a text in bytes.
pub const VERIFIER_KEY_BYTES: usize = 1_024;
/// Lines of a checkpoint that say more than it must.
pub const CHECKPOINT_EXTENSIONS: usize = 100;
/// A proof about the tree over a log, in bytes of JSON: twice what the longest takes.
pub const PROOF_BYTES: usize = 8 * 1024;
/// Events that one query reads from the log.
pub const LOG_PAGE: i64 = 5_000;
/// Events that a live feed keeps in memory for its streams; a reader further behind reads the database.
pub const FEED_EVENTS: usize = 4_096;
/// Frames that are kept as they were sent, for all who follow the same: a little more than a burst of them.
pub const SHARED_FRAMES: usize = 1_024;
/// Events that a stream takes from the log or its feed at a time.
pub const STREAM_PAGE: i64 = 256;
/// How often an event stream sends a comment, so that proxies do not cut it.
pub const STREAM_KEEP_ALIVE: Duration = Duration::from_secs(10);
/// How long an answer under an idempotency key is kept at least.
pub const IDEMPOTENCY_KEPT: Duration = Duration::from_secs(48 * 3_600);
/// How long an idempotency key is held at most for a request that asks somebody outside before it is decided: longer than
/// that may take, with the command after it. After a crash its repetitions are told to wait for as long.
pub const IDEMPOTENCY_HELD: Duration = Duration::from_secs(60);
/// How often an active appender looks for answers that are past that.
pub const IDEMPOTENCY_SWEEP: Duration = Duration::from_secs(3_600);
/// Rows that one such look deletes at most.
pub const IDEMPOTENCY_SWEEP_ROWS: i64 = 5_000;
/// Connections of callers that are served at the same time; more wait in the system's queue.
pub const CONNECTIONS: usize = 15_000;
/// Callers that the system's queue holds: those of a burst who find it full try again after a second at the earliest.
pub const LISTEN_QUEUE: u32 = 1_024;
/// Files that the process may have open, where the system lets it: one a connection, and some.
pub const OPEN_FILES: u64 = 65_536;
/// How long a caller may take to send the headers of a request; also how long a connection may stay without one.
pub const HEADER_DEADLINE: Duration = Duration::from_secs(10);
/// How long a caller may take nothing of what lies ready for it before its connection is closed by the system.
pub const STALLED_READER: Duration = Duration::from_secs(30);
/// How often what was measured is added up: what waits for that is a few bytes for each request of the time between.
pub const METRICS_ADDED_UP: Duration = Duration::from_secs(1);
/// The headers of a request, in bytes.
pub const HEADER_BYTES: usize = 32 * 1_024;
/// The headers of a request, by number.
pub const HEADERS: usize = 100;
/// Requests at the same time on one HTTP/2 connection.
pub const HTTP2_STREAMS: u32 = 128;
/// How often a quiet HTTP/2 connection is asked whether it is still there, and how long it has to say so.
pub const HTTP2_PING: Duration = Duration::from_secs(20);
/// How long to wait before connections are accepted again when the process has run out of files.
pub const ACCEPT_REST: Duration = Duration::from_millis(100);
/// How long requests in flight may take once the server was told to stop. This and the next two make less than 30 s.
pub const DRAIN_DEADLINE: Duration = Duration::from_secs(12);
/// How long the log may then take to answer what it took.
pub const CLOSE_DEADLINE: Duration = Duration::from_secs(5);
/// How long the server's own PostgreSQL may then take to stop.
pub const DATABASE_STOP_DEADLINE: Duration = Duration::from_secs(10);
/// The largest body of a request.
pub const BODY_BYTES: usize = 1024 * 1024;
/// How deeply the JSON of a request may be nested.
pub const JSON_DEPTH: usize = 64;
/// The longest name or id that a caller gives, in characters.
pub const NAME_CHARACTERS: usize = 256;
/// The largest metadata, as JSON.
pub const METADATA_BYTES: usize = 16 * 1024;
/// The longest instructions of an agent, in bytes.
pub const INSTRUCTIONS_BYTES: usize = 256 * 1024;
/// The most tokens that may be asked for in one answer of a model.
pub const MODEL_TOKENS: i64 = 1_000_000;
/// The most seconds that may be allowed to a run of an agent: a day.
pub const RUN_SECONDS: i64 = 86_400;
/// The largest value of a secret.
pub const SECRET_BYTES: usize = 64 * 1024;
/// What the secrets that one agent sees take together: those of its organization and those of its session.
pub const SECRETS_BYTES: u64 = 2 * theazo_domain::secret::MOST_BYTES_IN_SCOPE;
/// The largest input that a model may give to a tool, in bytes of JSON.
pub const TOOL_INPUT_BYTES: usize = 1024 * 1024;
/// The most TypeScript that is read.
pub const TYPESCRIPT_BYTES: usize = 1024 * 1024;
/// The most JavaScript that may come of it.
pub const TYPESCRIPT_OUTPUT_BYTES: usize = 4 * 1024 * 1024;
/// How long reading TypeScript may take, and waiting for it to begin.
pub const TYPESCRIPT_DEADLINE: Duration = Duration::from_secs(5);
/// How much may be read at the same time.
pub const TYPESCRIPT_AT_ONCE: usize = 2;
/// The memory that reading TypeScript may take, as addresses: the stack below is part of it.
pub const TYPESCRIPT_MEMORY_BYTES: u64 = 1024 * 1024 * 1024;
/// How deep the stack may be in it.
pub const TYPESCRIPT_STACK_BYTES: usize = 256 * 1024 * 1024;
/// Results of a web search that a model is shown.
pub const SEARCH_RESULTS: usize = 8;
/// Characters of a search result's excerpt that a model is shown; of its title and address as well.
pub const SEARCH_EXCERPT_CHARACTERS: usize = 500;
/// How long a web search may take.
pub const SEARCH_DEADLINE: Duration = Duration::from_secs(15);
/// The largest answer of a search engine.
pub const SEARCH_RESPONSE_BYTES: usize = 2 * 1024 * 1024;
/// Bytes that a model is shown of the body of an answer to a request of its own.
pub const HTTP_TOOL_BODY_BYTES: usize = 64 * 1024;
/// Bytes that it is shown of the headers.
pub const HTTP_TOOL_HEADER_BYTES: usize = 8 * 1024;
/// How long such a request may take.
pub const HTTP_TOOL_DEADLINE: Duration = Duration::from_secs(30);
/// Values whose keys are wrapped anew in one transaction, when the master key is changed.
pub const REWRAPPED_ROWS: i64 = 64;
/// Values that are in memory at once when all of them are opened to see whether they do.
pub const OPENED_ROWS: i64 = 32;
/// Damaged values that are named.
pub const NAMED_VALUES: usize = 20;
/// The longest idempotency key.
pub const IDEMPOTENCY_KEY_BYTES: usize = 255;
/// How far the time that a webhook's sender has signed may lie from the server's own, before it or behind it.
pub const WEBHOOK_TOLERANCE: Duration = Duration::from_secs(300);
/// The longest id that a webhook's sender gives to what it sends.
pub const WEBHOOK_ID_BYTES: usize = 255;
/// Signatures of one webhook: a sender that changes its secret signs with both.
pub const WEBHOOK_SIGNATURES: usize = 16;
/// API keys that a server remembers, and as many digests that open nothing.
pub const CACHED_KEYS: usize = 10_000;
/// How long a server trusts what it knows of an API key: a revocation is seen everywhere within this time.
pub const KEY_REMEMBERED: Duration = Duration::from_secs(1);
/// API keys whose requests are being counted on a server; the counts themselves are in the database.
pub const COUNTED_KEYS: usize = 10_000;
/// Requests of one key that may wait to be counted; more are refused with 503.
pub const COUNTING_QUEUE: usize = 4_096;
/// Over what time the requests of a key are counted. The database's function has the same number.
pub const RATE_WINDOW: Duration = Duration::from_secs(60);
/// When a caller is told to come back after a 503, in seconds.
pub const RETRY_AFTER_S: i64 = 1;
/// Rows of a page where the caller names no number.
pub const PAGE: i64 = 25;
/// Rows of a page at most.
pub const LARGEST_PAGE: i64 = 100;
/// Users, sessions or agents of a page of costs where the caller names no number.
pub const USERS_PAGE: i64 = 50;
/// The same at most.
pub const LARGEST_USERS_PAGE: i64 = 1_000;
/// Days of a period whose costs are listed day by day: a hundred years.
pub const DAYS_LISTED: usize = 36_525;
/// Entries that an export reads at a time.
pub const EXPORT_PAGE: i64 = 5_000;
/// How long an outgoing call may take to be connected, with the lookup of its name and TLS.
pub const OUTGOING_CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// How long the headers of an outgoing call's answer may take, unless the call says otherwise.
pub const OUTGOING_HEADER_DEADLINE: Duration = Duration::from_secs(30);
/// How long nothing may come of an outgoing call's answer, unless the call says otherwise.
pub const OUTGOING_BODY_DEADLINE: Duration = Duration::from_secs(30);
/// How long an outgoing call may take as a whole, unless the call says otherwise.
pub const OUTGOING_DEADLINE: Duration = Duration::from_secs(60);
/// The largest answer of an outgoing call, unless the call says otherwise.
pub const OUTGOING_RESPONSE_BYTES: usize = 1024 * 1024;
/// Redirects that an outgoing call follows, unless the call says otherwise.
pub const OUTGOING_REDIRECTS: usize = 5;
/// How long an outgoing connection is kept for the next call to the same host, and how many of them.
pub const OUTGOING_IDLE: Duration = Duration::from_secs(30);
/// Connections that are kept so for each host.
pub const OUTGOING_IDLE_CONNECTIONS: usize = 16;
/// Names that a client looks up at the same time; the system's resolver holds a thread for each.
pub const OUTGOING_LOOKUPS: usize = 64;
/// How long a call of a compute vendor may take, unless it makes a sandbox or runs a program.
pub const COMPUTE_DEADLINE: Duration = Duration::from_secs(30);
/// How long a compute vendor may take to make a sandbox.
pub const COMPUTE_CREATE_DEADLINE: Duration = Duration::from_secs(120);
/// How much longer than its program a run may take at a compute vendor's, starting and ending it included.
pub const COMPUTE_RUN_GRACE: Duration = Duration::from_secs(15);
/// How often a call that failed is made again, where that does no harm.
pub const COMPUTE_REPEATS: u32 = 3;
/// How long to rest before that, the first time; also the shortest rest that a vendor can ask for.
pub const COMPUTE_REST: Duration = Duration::from_millis(100);
/// How long to rest after a 429 that does not say how long.
pub const COMPUTE_THROTTLED_REST: Duration = Duration::from_secs(1);
/// The largest answer of a compute vendor, but for outputs of programs and contents of files.
pub const COMPUTE_ANSWER_BYTES: usize = 4 * 1024 * 1024;
/// Pages of a list of sandboxes that are read at most.
pub const COMPUTE_LIST_PAGES: usize = 1_000;
/// Characters of a compute vendor's reason that are kept.
pub const COMPUTE_REASON_CHARACTERS: usize = 500;
/// Bytes of memory that a container's `/tmp` may take, beside its workspace.
pub const COMPUTE_SCRATCH_BYTES: i64 = 64 * 1024 * 1024;
/// Sandboxes whose addresses and tokens a server remembers for each provider.
pub const COMPUTE_REACHED: usize = 4_096;
/// How long one command may take at a vendor whose commands are short; longer ones go on by themselves and are asked after.
pub const COMPUTE_COMMAND: Duration = Duration::from_secs(20);
/// Bytes of a request or an answer that go into one such command.
pub const COMPUTE_PIECE_BYTES: usize = 96 * 1024;
/// How long a model's vendor may say nothing while it answers. Anthropic sends pings; OpenAI's models think in silence.
pub const MODEL_IDLE_DEADLINE: Duration = Duration::from_secs(300);
/// How long a model call may take where nothing else bounds it.
pub const MODEL_DEADLINE: Duration = Duration::from_secs(600);
/// One event in the stream of a model's answer.
pub const MODEL_EVENT_BYTES: usize = 1024 * 1024;
/// The whole stream of a model's answer.
pub const MODEL_ANSWER_BYTES: usize = 32 * 1024 * 1024;
/// What is read of a vendor's words about an error.
pub const MODEL_ERROR_BYTES: usize = 16 * 1024;
/// What is kept of them, in characters.
pub const MODEL_ERROR_CHARACTERS: usize = 500;
/// The folder of local sandboxes, in the data directory.
pub const SANDBOX_FOLDER: &str = "sandboxes";
/// Memory of a local sandbox, where the operator says nothing else.
pub const SANDBOX_MEMORY_BYTES: u64 = 512 << 20;
/// Processes and threads of a local sandbox, where the operator says nothing else.
pub const SANDBOX_PROCESSES: u64 = 64;
/// What the workspace and the `/tmp` of a local sandbox take on disk, where the operator says nothing else.
pub const SANDBOX_DISK_BYTES: u64 = 1 << 30;
/// Files and folders in the two.
pub const SANDBOX_FILES: u64 = 100_000;
/// Files that a process of a local sandbox has open.
pub const SANDBOX_OPEN_FILES: u64 = 1_024;
/// Processor time of a process in a local sandbox: two processors for as long as a program may run.
pub const SANDBOX_PROCESSOR_TIME: Duration = Duration::from_secs(240);
/// Memory that a process of a local sandbox may lock.
pub const SANDBOX_LOCKED_BYTES: u64 = 1 << 20;
/// The stack of a process of a local sandbox, four times what its arguments and its environment may take.
pub const SANDBOX_STACK_BYTES: u64 = 8 << 20;
/// Signals that may wait for a user of a local sandbox.
pub const SANDBOX_PENDING_SIGNALS: u64 = 1_024;
/// How deep the folders of a local sandbox may be.
pub const SANDBOX_FOLDER_DEPTH: usize = 200;
/// How often a local sandbox is measured whose totals no cgroup holds.
pub const SANDBOX_WATCH_INTERVAL: Duration = Duration::from_millis(25);
/// How often all its files are looked at, while the disk loses nothing that would matter.
pub const SANDBOX_DISK_INTERVAL: Duration = Duration::from_secs(2);
/// The same, where there are so many that looking at them takes long.
pub const SANDBOX_DISK_INTERVAL_MAX: Duration = Duration::from_secs(4);
/// How often what is past the limit of a local sandbox' disk is looked for at most, after a program.
pub const SANDBOX_TRIMS: usize = 8;
/// How often it is seen whether another server has deleted a local sandbox in which something runs.
pub const SANDBOX_DELETED_INTERVAL: Duration = Duration::from_millis(250);
/// Of a machine's memory, in percent: when less is available, local sandboxes are ended.
pub const SANDBOX_MEMORY_RESERVE_PERCENT: u64 = 2;
/// Of a machine's disk, in percent: when less is free, local sandboxes that write are ended.
pub const SANDBOX_DISK_RESERVE_PERCENT: u64 = 1;
/// The first user id of the host that a local sandbox has where the server is root, and how many there are: above those
/// of systemd's containers and below those that are reserved.
pub const SANDBOX_HOST_IDS: (u32, u32) = (0x7000_0000, 0x1_0000);
/// How long it may take from the start of a local sandbox to that of its program.
pub const SANDBOX_START_DEADLINE: Duration = Duration::from_secs(10);
/// How long it may take until everything of a local sandbox has ended.
pub const SANDBOX_END_DEADLINE: Duration = Duration::from_secs(10);
/// The longest path of a file in a sandbox, as callers give it.
pub const SANDBOX_PATH_BYTES: usize = 4_096;
/// Agents that an answer names at most where they are why something cannot be done.
pub const NAMED_AGENTS: usize = 100;
/// How long the removal of a provider waits for the sandboxes of agents that have ended: a failed attempt and the next.
pub const RELEASE_DEADLINE: Duration = Duration::from_secs(15);
/// How often it looks.
pub const RELEASE_POLL: Duration = Duration::from_millis(50);
/// How long a compute provider may take to say whether it takes its credentials.
pub const VERIFY_DEADLINE: Duration = Duration::from_secs(5);
/// The largest answer of a compute provider to that question.
pub const VERIFY_BYTES: usize = 64 * 1024;
/// How often the credentials of a compute provider are read until the version that the log names lies there.
pub const SEALED_READS: usize = 16;
/// Pieces of work that a server does at the same time: runs, and what is done with sandboxes.
pub const PIECES_OF_WORK: usize = 512;
/// Pieces of work besides that keep count of money.
pub const PIECES_OF_COUNTING: usize = 64;
/// Pieces of work that a server takes at a time.
pub const PIECES_AT_ONCE: usize = 64;
/// How often a server looks for work that is due when nothing tells it to.
pub const WORK_POLL: Duration = Duration::from_millis(500);
/// The most tokens of a call, of each kind, that anyone is believed to have used.
pub const MOST_TOKENS: u64 = 1_000_000_000_000;
/// How long a run goes on telling the log what it cannot find out again, while the log takes nothing: what a model has
/// answered and used, and what a tool has done. Within a minute of its work's death a call is settled in any case.
pub const TOLD_AGAIN: Duration = Duration::from_secs(45);
/// How long it rests between two attempts.
pub const TOLD_AGAIN_REST: Duration = Duration::from_millis(250);
/// How long work rests that could not be done, until it is tried again.
pub const WORK_REST: Duration = Duration::from_secs(5);
/// How long a server has a piece of work without saying that it is still at it; then another may take it.
pub const LEASE: Duration = Duration::from_secs(10);
/// How often it says so.
pub const LEASE_RENEWAL: Duration = Duration::from_secs(3);
/// How long what is under way may take to end once the server was told to stop.
pub const HAND_BACK: Duration = Duration::from_millis(800);
/// How long what waits for others goes on waiting then: shorter, so that its place is free before the rest is handed back.
pub const LAST_MOMENT: Duration = Duration::from_millis(200);
/// How long a call to a model goes on then: shorter still, since what it has told until it is broken off is kept by the log
/// before the rest is handed back.
pub const CALLS_LAST_MOMENT: Duration = Duration::from_millis(50);
/// How long the log may take for that.
pub const CLOSING_MOMENT: Duration = Duration::from_millis(350);
/// The longest life that a vendor is asked to give to a sandbox that is not ended before.
pub const SANDBOX_LIFETIME: Duration = Duration::from_secs(24 * 3_600);
/// How often providers are asked for sandboxes that a crash left behind; those that two looks in a row find are released.
/// Longer than it may take to make a sandbox.
pub const SWEEP_INTERVAL: Duration = Duration::from_secs(300);
/// The largest task.
pub const TASK_BYTES: usize = 512 * 1024;
/// Seconds that a run may take where nobody says.
pub const RUN_DEFAULT_SECONDS: i64 = 300;
/// Rate cards whose prices a server keeps.
pub const KEPT_RATE_CARDS: usize = 256;
/// How often a run may ask its model.
pub const TURNS: u32 = 200;
/// The text of a conversation that a model is given at most: older tasks are left out of it.
pub const CONVERSATION_BYTES: usize = 2 * 1024 * 1024;
/// Events of an agent that are read at a time, from the newest back, to make its conversation of.
pub const HISTORY_PAGE: i64 = 256;
/// Memory that a server keeps conversations in, of the agents that ran last.
pub const KEPT_CONVERSATIONS_BYTES: usize = 32 * 1024 * 1024;
/// How long a conversation is kept that does not go on.
pub const KEPT_CONVERSATION_IDLE: Duration = Duration::from_secs(600);
/// Memory that a server keeps sums of usage in, of periods that have ended.
pub const KEPT_SUMS_BYTES: usize = 64 * 1024 * 1024;
/// What is kept there of a tenant's users, and of its sessions and agents, at most: both of them fit.
pub const KEPT_BOOK_LARGEST_BYTES: usize = KEPT_SUMS_BYTES / 8 * 3;
/// What it takes to keep whose such a sum is: two ids of 16 bytes, and where to find them, with room to grow.
pub const KEPT_NAME_BYTES: usize = 208;
/// What it takes to keep a period besides what was used in it.
pub const KEPT_PERIOD_BYTES: usize = 160;
/// Positions of the log after which a kept period that no list has looked at meanwhile is read anew: late lines of all that
/// are kept are read since the oldest look at one of them.
pub const KEPT_PERIOD_POSITIONS: i64 = 50_000;
/// What a tenant takes there of whom nothing is kept yet.
pub const KEPT_BOOK_BYTES: usize = 512;
/// Periods of one length behind each other whose sums are kept one by one; of more than so many the last.
pub const KEPT_PERIODS_OF_A_PIECE: usize = 64;
/// How often a server looks for sums of usage to pack, of tenants that it appends for, and of one whose lists have missed some.
pub const PACK_INTERVAL: Duration = Duration::from_secs(60);
/// How long after its end a period is packed: what is late, such as the storage of a day, is mostly known by then.
pub const PACK_AFTER: Duration = Duration::from_secs(3_600);
/// Tenants that may wait for theirs to be packed since a list was asked for.
pub const TENANTS_TO_PACK: usize = 1_024;
/// Periods of one tenant that are looked at, and packed, before it is the next one's turn.
pub const PACKED_AT_A_TIME: usize = 256;
/// Periods behind each other that cannot be packed before a server tries again later.
pub const PACK_FAILURES: usize = 4;
/// Rows of a period that are packed into one; of a period that has more, each is read.
pub const PACKED_ROWS: i64 = 262_144;
/// The model of agents that name none, on a server whose operator has named none.
pub const DEFAULT_MODEL: &str = "claude-sonnet-4-20250514";
/// The most tokens of an answer where nobody says.
pub const DEFAULT_MAX_TOKENS: u32 = 4_096;
/// How long one call to a model may take.
pub const MODEL_CALL_DEADLINE: Duration = Duration::from_secs(600);
/// How much longer it is waited for, so that whoever sends it can say what came until its deadline.
pub const MODEL_CALL_GRACE: Duration = Duration::from_secs(1);
/// How often a call to a model that came to nothing is followed by another.
pub const MODEL_REPEATS: u32 = 3;
/// How long to rest before that, the first time; twice as long each time after.
pub const MODEL_REST: Duration = Duration::from_millis(500);
/// The longest such rest, whatever the vendor asks for.
pub const MODEL_LONGEST_REST: Duration = Duration::from_secs(30);
/// How long a call of a tool may take.
pub const TOOL_DEADLINE: Duration = Duration::from_secs(135);
/// How long a caller's program may go on once the server was told to stop: a little less than requests in flight, so that
/// its record is closed.
pub const EXEC_AFTER_STOP: Duration = Duration::from_secs(11);
/// How long a program may run.
pub const EXEC_LIMIT: Duration = Duration::from_secs(120);
/// Bytes of each output of a program that are kept.
pub const PROGRAM_OUTPUT_BYTES: usize = 1024 * 1024;
/// Characters of a program's output that a model is shown.
pub const TOOL_OUTPUT_CHARACTERS: usize = 32 * 1024;
/// Bytes of a file that a model is shown.
pub const FILE_TOOL_BYTES: usize = 64 * 1024;
/// Entries of a folder that a model is shown.
pub const FILE_TOOL_ENTRIES: usize = 1_000;
