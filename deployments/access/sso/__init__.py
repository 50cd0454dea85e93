"""Single sign-on: tokens of an OpenID Connect provider, as good as keys."""
