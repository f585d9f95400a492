-- What a session has used of models that have no price yet. A server of the version before knows nothing of it.
alter table session_usage add column unrated_calls bigint not null default 0;
alter table session_usage add column unrated_input_tokens bigint not null default 0;
alter table session_usage add column unrated_output_tokens bigint not null default 0;
