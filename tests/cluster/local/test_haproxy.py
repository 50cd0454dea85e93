from pathlib import Path

import pytest

from cluster.local import haproxy

PAGES = (
    "defaults\n    option splice-request\n    option splice-response\n"
    "frontend prometheus\n    bind :9101\nfrontend http_frontend\n    bind *:8000\n"
    "backend http-digits\n    http-reuse always\n    server R1 127.0.0.1:30001 check observe layer4\n"
    "    server R2 127.0.0.1:30002 check\n    server PROXY 127.0.0.1:8500 check backup\n"
    "listen stats\n  bind *:8404\n"
)


def test_rays_other_pages_are_bound_to_loopback_and_the_front_door_is_left_alone() -> None:
    confined = haproxy.rewrite_config(PAGES, Path("/e"))

    assert "bind 127.0.0.1:9101\n" in confined
    assert "bind 127.0.0.1:8404\n" in confined
    assert "bind *:8000\n" in confined


def test_replicas_need_not_watch_every_caller_and_what_goes_well_is_not_logged() -> None:
    confined = haproxy.rewrite_config(PAGES, Path("/e"))

    front = confined.partition("frontend http_frontend\n")[2].partition("listen stats")[0]
    # A caller may not decide it; and Ray's own proxy, which stands in while no replica is up, watches for itself.
    assert "http-request del-header x-request-disconnect-disabled\n" in front.partition("backend")[0]
    unwatched = "http-request set-header x-request-disconnect-disabled ?1 if { srv_is_up(http-digits/R%d) }\n"
    assert unwatched % 1 in front
    assert unwatched % 2 in front
    assert front.count("set-header") == 2
    assert "option dontlog-normal\n" in front


def test_requests_are_not_spliced_since_haproxy_would_not_see_the_caller_leave() -> None:
    confined = haproxy.rewrite_config(PAGES, Path("/e"))

    assert "\n    no option splice-request\n    option splice-response\n" in confined


def test_a_configuration_that_was_confined_before_stays_so() -> None:
    once = haproxy.rewrite_config(PAGES, Path("/e"))

    assert haproxy.rewrite_config(once, Path("/e")) == once


def test_a_configuration_of_another_form_is_refused_rather_than_left_open() -> None:
    with pytest.raises(SystemExit, match="listen stats was found 0 times"):
        haproxy.rewrite_config(PAGES.replace("listen stats", "listen statistics"), Path("/e"))


def test_haproxys_own_refusal_has_the_designs_body() -> None:
    config = "    errorfile 502 /ray/500.http\n    errorfile 503 /ray/500.http\n    errorfile 504 /ray/500.http\n"

    confined = haproxy.rewrite_config(config + PAGES, Path("/ours"))

    assert confined.count("/ours") == 3
    assert "/ray" not in confined


def test_rays_own_template_still_has_the_lines_that_are_rewritten() -> None:
    from ray.serve._private import haproxy_templates

    template = haproxy_templates.HAPROXY_CONFIG_TEMPLATE

    assert "frontend prometheus\n    bind :{{ config.metrics_port }}\n" in template
    assert "\nfrontend http_frontend\n" in template
    assert "listen stats\n  bind *:{{ config.stats_port }}\n" in template
    assert "\n    option splice-request\n" in template
    for status in (502, 503, 504):
        assert f"errorfile {status} {{{{ config.error_file_path }}}}\n" in template
