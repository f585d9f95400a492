-- What callers confide (the values of secrets, the credentials of providers), sealed, beside the log.

-- One value lies at a place at a time: one that takes its place, or is taken away, leaves no ciphertext. Written in the
-- transaction of its event, which says that it was set, and never the value or its ciphertext.
create table sealed_values (
  tenant_id bigint not null,
  -- What it is and where it belongs, such as secret/org/DB_PASSWORD.
  place text collate "C" not null,
  -- val_…: the version that the event names. Tenant, place and version are bound into both of the texts below, so a row
  -- that is moved, swapped or put back does not open.
  version text collate "C" not null,
  -- Which master key wraps the data key: a public fingerprint.
  master_key_id text collate "C" not null,
  -- The value's own random key, wrapped (form, nonce, AES-256-GCM).
  data_key bytea not null,
  -- AES-256-GCM under that key.
  nonce bytea not null,
  ciphertext bytea not null,
  primary key (tenant_id, place)
);
-- Ciphertext cannot be compressed.
alter table sealed_values alter column ciphertext set storage external;
-- What is still to be wrapped anew, when the master key is changed. The condition is always true: see events_by_type.
create index sealed_values_by_master_key on sealed_values (tenant_id, master_key_id, place) where place > '';

alter table sealed_values enable row level security;
alter table sealed_values force row level security;
create policy tenant_wall on sealed_values using (tenant_id = current_tenant());
grant select, insert, update, delete on sealed_values to theazo_serve;
