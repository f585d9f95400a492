-- A call whose usage is not known, to a model that has no price: its tokens at most, for which nothing is held. A server of the
-- version before knows nothing of them.
alter table unconfirmed_calls add column unrated_input_tokens bigint not null default 0;
alter table unconfirmed_calls add column unrated_output_tokens bigint not null default 0;
