-- The read model of compute providers.

create table providers (
  tenant_id bigint not null,
  build integer not null,
  -- local, e2b, fly, docker or webhook
  provider text collate "C" not null,
  -- val_…: the version of the credentials, which lie sealed at provider/NAME; null for local, which needs none.
  credentials text collate "C",
  -- 1 for the one that is the default, 0 for the others.
  is_default bigint not null,
  -- active, error or unverified: what it said when it was last asked.
  status text collate "C" not null,
  status_reason text,
  verified_at timestamptz,
  -- Of the event that first configured it: what the listing is ordered by.
  position bigint not null,
  created_at timestamptz not null,
  primary key (tenant_id, build, provider)
);

alter table providers enable row level security;
alter table providers force row level security;
create policy tenant_wall on providers using (tenant_id = current_tenant());
grant select, insert, update, delete on providers to theazo_serve;
