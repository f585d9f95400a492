-- The read model of secrets: what there is, never what it says.

create table secrets (
  tenant_id bigint not null,
  build integer not null,
  -- org, or ses_…
  scope text collate "C" not null,
  name text collate "C" not null,
  -- val_…: which value is the present one. It lies in sealed_values, and opens as this version only.
  version text collate "C" not null,
  -- Of the event that set it first.
  position bigint not null,
  created_at timestamptz not null,
  primary key (tenant_id, build, scope, name)
);
-- For listings, which state the condition (always true): see sessions.
create index secrets_newest on secrets (tenant_id, build, position) where position > 0;
create index secrets_of_scope on secrets (tenant_id, build, scope, position) where position > 0;

alter table secrets enable row level security;
alter table secrets force row level security;
create policy tenant_wall on secrets using (tenant_id = current_tenant());
grant select, insert, update, delete on secrets to theazo_serve;
