from pathlib import Path

import pytest

from cluster.local import haproxy

CONFIG = (
    "defaults\n    option splice-request\n    option splice-response\n"
    "frontend prometheus\n    bind :9101\nfrontend http_frontend\n    bind *:8000\n"
    "backend http-digits\n    http-reuse always\n    server R1 127.0.0.1:30001 check observe layer4\n"
    "    server R2 127.0.0.1:30002 check\n    server PROXY 127.0.0.1:8500 check backup\n"
    "listen stats\n  bind *:8404\n"
)


def test_metrics_and_statistics_are_bound_to_loopback_and_the_http_frontend_is_unchanged() -> None:
    rewritten = haproxy.rewrite_config(CONFIG, Path("/e"))

    assert "bind 127.0.0.1:9101\n" in rewritten
    assert "bind 127.0.0.1:8404\n" in rewritten
    assert "bind *:8000\n" in rewritten


def test_replicas_need_not_watch_for_disconnects_and_successful_requests_are_not_logged() -> None:
    rewritten = haproxy.rewrite_config(CONFIG, Path("/e"))

    frontend = rewritten.partition("frontend http_frontend\n")[2].partition("listen stats")[0]
    # A caller may not set the header; and Ray's own proxy, the backup while no replica is up, watches for disconnects.
    assert "http-request del-header x-request-disconnect-disabled\n" in frontend.partition("backend")[0]
    set_header = "http-request set-header x-request-disconnect-disabled ?1 if { srv_is_up(http-digits/R%d) }\n"
    assert set_header % 1 in frontend
    assert set_header % 2 in frontend
    assert frontend.count("set-header") == 2
    assert "option dontlog-normal\n" in frontend


def test_requests_are_not_spliced_since_haproxy_would_not_notice_a_disconnect() -> None:
    rewritten = haproxy.rewrite_config(CONFIG, Path("/e"))

    assert "\n    no option splice-request\n    option splice-response\n" in rewritten


def test_rewriting_is_idempotent() -> None:
    once = haproxy.rewrite_config(CONFIG, Path("/e"))

    assert haproxy.rewrite_config(once, Path("/e")) == once


def test_an_unexpected_configuration_is_refused_rather_than_left_open() -> None:
    with pytest.raises(SystemExit, match="listen stats was found 0 times"):
        haproxy.rewrite_config(CONFIG.replace("listen stats", "listen statistics"), Path("/e"))


def test_the_error_pages_of_haproxy_are_replaced() -> None:
    error_pages = "    errorfile 502 /ray/500.http\n    errorfile 503 /ray/500.http\n    errorfile 504 /ray/500.http\n"

    rewritten = haproxy.rewrite_config(error_pages + CONFIG, Path("/shoal"))

    assert rewritten.count("/shoal") == 3
    assert "/ray" not in rewritten


def test_rays_own_template_still_has_the_lines_that_are_rewritten() -> None:
    from ray.serve._private import haproxy_templates

    template = haproxy_templates.HAPROXY_CONFIG_TEMPLATE

    assert "frontend prometheus\n    bind :{{ config.metrics_port }}\n" in template
    assert "\nfrontend http_frontend\n" in template
    assert "listen stats\n  bind *:{{ config.stats_port }}\n" in template
    assert "\n    option splice-request\n" in template
    for status in (502, 503, 504):
        assert f"errorfile {status} {{{{ config.error_file_path }}}}\n" in template
