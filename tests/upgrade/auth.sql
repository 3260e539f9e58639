-- The auth node's database as of the schema before the migration 'movement kinds': made with
-- pg_dump --inserts --no-owner --no-privileges, from a shop in use. tests/it/upgrade.rs restores it.
--
-- PostgreSQL database dump
--


-- Dumped from database version 15.20 (Debian 15.20-0+deb12u1)
-- Dumped by pg_dump version 15.20 (Debian 15.20-0+deb12u1)

SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;

SET default_tablespace = '';

SET default_table_access_method = heap;

--
-- Name: _sqlx_migrations; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public._sqlx_migrations (
    version bigint NOT NULL,
    description text NOT NULL,
    installed_on timestamp with time zone DEFAULT now() NOT NULL,
    success boolean NOT NULL,
    checksum bytea NOT NULL,
    execution_time bigint NOT NULL
);


--
-- Name: audit_log; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.audit_log (
    id bigint NOT NULL,
    at timestamp with time zone DEFAULT now() NOT NULL,
    user_id uuid NOT NULL,
    username text NOT NULL,
    action text NOT NULL,
    actor text NOT NULL,
    reason text NOT NULL,
    request_id text NOT NULL
);


--
-- Name: audit_log_id_seq; Type: SEQUENCE; Schema: public; Owner: -
--

ALTER TABLE public.audit_log ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.audit_log_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);


--
-- Name: dead_letters; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.dead_letters (
    id uuid NOT NULL,
    queue text NOT NULL,
    event text NOT NULL,
    message_id text,
    version bigint,
    reason text NOT NULL,
    first_failed_at timestamp with time zone NOT NULL,
    tries integer NOT NULL,
    headers jsonb NOT NULL,
    properties jsonb NOT NULL,
    payload bytea NOT NULL,
    kept_at timestamp with time zone DEFAULT now() NOT NULL
);


--
-- Name: idempotency_keys; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.idempotency_keys (
    caller uuid NOT NULL,
    name text NOT NULL,
    fingerprint text NOT NULL,
    status smallint NOT NULL,
    body bytea NOT NULL,
    kept_until timestamp with time zone NOT NULL
);


--
-- Name: outbox; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.outbox (
    id bigint NOT NULL,
    message_id uuid NOT NULL,
    event text NOT NULL,
    version bigint,
    body text NOT NULL,
    traceparent text,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);


--
-- Name: outbox_id_seq; Type: SEQUENCE; Schema: public; Owner: -
--

ALTER TABLE public.outbox ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.outbox_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);


--
-- Name: users; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.users (
    id uuid NOT NULL,
    username text NOT NULL,
    username_key text NOT NULL,
    email text NOT NULL,
    email_key text NOT NULL,
    password_hash text NOT NULL,
    role text NOT NULL,
    version bigint DEFAULT 1 NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT users_role_check CHECK ((role = ANY (ARRAY['USER'::text, 'ADMIN'::text])))
);


--
-- Data for Name: _sqlx_migrations; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public._sqlx_migrations VALUES
	(1, 'users', '2026-11-25 21:51:41.268032+00', true, '\xca0f3257d2f97b9c36c1fe361adcaf3acb187c7443c0c38184c965be63844582ba54b40fd6cf68f243f22a4ea45d3de2', 60203493),
	(2, 'outbox', '2026-11-25 21:51:41.332265+00', true, '\x2107abb952ba3d96a3771796febb506a1dac14c9415a6e0f1ea722072bf17d506d993d152dcb48bf2504c6730a2d3cc4', 12019766),
	(4, 'idempotency keys', '2026-11-25 21:51:41.349349+00', true, '\x94fd8e587d129951c6def4d2a4ba179c1db642434187a764c202e26e8c280725d6c3aab79dd063657426af748f43bc25', 66922793),
	(5, 'dead letters', '2026-11-25 21:51:41.432007+00', true, '\xa92ffd303c0be7c6109fc15dbaabb4e1987c155911a28b2ab0bc897d704916d7041e06eb5c4088ec45b4e48919256e1f', 55886226),
	(6, 'audit log', '2026-11-25 21:51:41.503957+00', true, '\xb69fb9f7046a510a5af15e993fd651f16e83bff5103605b8c938f8fb873205a85539890e3482174207898e8bbc1197ea', 99951029);


--
-- Data for Name: audit_log; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.audit_log OVERRIDING SYSTEM VALUE VALUES
	(1, '2026-11-25 21:52:32.898143+00', '01a214b1-74b5-72c4-bafd-d70a3863bc11', 'admin', 'restart', 'shop/auth/users/0', 'Проверка', '74852d55-4715-4566-ba43-42cd71efbefe');


--
-- Data for Name: dead_letters; Type: TABLE DATA; Schema: public; Owner: -
--



--
-- Data for Name: idempotency_keys; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.idempotency_keys VALUES
	('00000000-0000-0000-0000-000000000000', 'sign-up-anna', 'DirVfoGHW4gUUV6U3nPs75AoomVUoXFqsIwymrGmQ1k', 201, '\x7b226964223a2230316132313462312d646536342d373265352d383333332d623835356334366439303930222c22757365726e616d65223a22616e6e61222c22656d61696c223a22616e6e61406578616d706c652e636f6d222c22726f6c65223a2255534552227d', '2100-01-01 00:00:00+00'),
	('00000000-0000-0000-0000-000000000000', 'sign-up-bob', 'oaGFFPP8gobOoGY48S2UQ9eVSDeC_KEC_dHR5YiIRe0', 201, '\x7b226964223a2230316132313462312d646635352d373462622d626163612d396233633130316135643032222c22757365726e616d65223a22626f62222c22656d61696c223a22626f62406578616d706c652e636f6d222c22726f6c65223a2255534552227d', '2100-01-01 00:00:00+00'),
	('00000000-0000-0000-0000-000000000000', 'sign-up-dora', '2dh-YB_4K2Z19SlCsDULNdNDDkUQStv4GNMTaJbKjCc', 201, '\x7b226964223a2230316132313462312d646665342d373662302d613938302d393063656466653532376234222c22757365726e616d65223a22646f7261222c22656d61696c223a22646f7261406578616d706c652e636f6d222c22726f6c65223a2255534552227d', '2100-01-01 00:00:00+00');


--
-- Data for Name: outbox; Type: TABLE DATA; Schema: public; Owner: -
--



--
-- Data for Name: users; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.users VALUES
	('01a214b1-74b5-72c4-bafd-d70a3863bc11', 'admin', 'admin', 'admin@example.com', 'admin@example.com', '$2b$04$tENLTS3EAZ31fUrrFI4JNOzAIzY7z.GuohhmERhkGYKM5Bj5s9OA6', 'ADMIN', 1, '2026-11-25 21:51:43.796522+00'),
	('01a214b1-de64-72e5-8333-b855c46d9090', 'anna', 'anna', 'anna@example.com', 'anna@example.com', '$2b$04$sHbvgK8Q7qNrTqLJ90t2mex/I8BPfmLokdfa6.SjZ0MbP9Fvet9Le', 'USER', 1, '2026-11-25 21:52:10.819959+00'),
	('01a214b1-dfe4-76b0-a980-90cedfe527b4', 'dora', 'dora', 'dora@example.com', 'dora@example.com', '$2b$04$3wX6wkQXS6grDs8xtQr35OHMwPOngwVJWPx9F5LXPcnZDqhZqhv1a', 'ADMIN', 2, '2026-11-25 21:52:11.215981+00');


--
-- Name: audit_log_id_seq; Type: SEQUENCE SET; Schema: public; Owner: -
--

SELECT pg_catalog.setval('public.audit_log_id_seq', 1, true);


--
-- Name: outbox_id_seq; Type: SEQUENCE SET; Schema: public; Owner: -
--

SELECT pg_catalog.setval('public.outbox_id_seq', 6, true);


--
-- Name: _sqlx_migrations _sqlx_migrations_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public._sqlx_migrations
    ADD CONSTRAINT _sqlx_migrations_pkey PRIMARY KEY (version);


--
-- Name: audit_log audit_log_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.audit_log
    ADD CONSTRAINT audit_log_pkey PRIMARY KEY (id);


--
-- Name: dead_letters dead_letters_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.dead_letters
    ADD CONSTRAINT dead_letters_pkey PRIMARY KEY (id);


--
-- Name: idempotency_keys idempotency_keys_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.idempotency_keys
    ADD CONSTRAINT idempotency_keys_pkey PRIMARY KEY (caller, name);


--
-- Name: outbox outbox_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.outbox
    ADD CONSTRAINT outbox_pkey PRIMARY KEY (id);


--
-- Name: users users_email_key; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.users
    ADD CONSTRAINT users_email_key UNIQUE (email_key);


--
-- Name: users users_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.users
    ADD CONSTRAINT users_pkey PRIMARY KEY (id);


--
-- Name: users users_username_key; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.users
    ADD CONSTRAINT users_username_key UNIQUE (username_key);


--
-- Name: dead_letters_by_age; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX dead_letters_by_age ON public.dead_letters USING btree (first_failed_at, id);


--
-- Name: idempotency_keys_to_sweep; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX idempotency_keys_to_sweep ON public.idempotency_keys USING btree (kept_until);


--
-- Name: users_admins; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX users_admins ON public.users USING btree (id) WHERE (role = 'ADMIN'::text);


--
-- PostgreSQL database dump complete
--
