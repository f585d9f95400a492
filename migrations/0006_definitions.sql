-- The read models of agent definitions.

create table definitions (
  tenant_id bigint not null,
  build integer not null,
  definition_id text collate "C" not null,
  -- The latest, whose row below says what the definition says now.
  version bigint not null,
  status text collate "C" not null,
  -- Of the event that created it: what listings are ordered by.
  position bigint not null,
  created_at timestamptz not null,
  updated_at timestamptz not null,
  primary key (tenant_id, build, definition_id)
);
-- For listings, which state the condition (always true).
create index definitions_newest on definitions (tenant_id, build, position) where position > 0;
create index definitions_by_status on definitions (tenant_id, build, status, position) where position > 0;

create table definition_versions (
  tenant_id bigint not null,
  build integer not null,
  definition_id text collate "C" not null,
  version bigint not null,
  name text not null,
  -- How agents of this version are set up, as in the event.
  config json not null,
  -- cnt_…: the instructions and the caller's metadata, beside the log.
  instructions_content_id text collate "C",
  metadata_content_id text collate "C",
  created_at timestamptz not null,
  primary key (tenant_id, build, definition_id, version)
);

do $$
declare name text;
begin
  foreach name in array array['definitions', 'definition_versions'] loop
    execute format('alter table %I enable row level security', name);
    execute format('alter table %I force row level security', name);
    execute format('create policy tenant_wall on %I using (tenant_id = current_tenant())', name);
    execute format('grant select, insert, update, delete on %I to theazo_serve', name);
  end loop;
end $$;
