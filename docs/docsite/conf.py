"""Sphinx configuration of the documentation's site, which tools/docs.sh builds."""

from docutils import nodes

project = title = html_short_title = "tf2x.serving"
extensions = ["myst_parser", "sphinx_antsibull_ext"]
myst_heading_anchors = 3
# Pictures with a width.
myst_enable_extensions = ["html_image"]
pygments_style = "ansible"
highlight_language = "none"
html_theme = "sphinx_ansible_theme"
# The theme has those of the Ansible project.
html_theme_options = {"topbar_links": {}}
html_show_sphinx = html_show_copyright = False
html_copy_source = False
html_use_index = False

# What antsibull-docs refers to in Ansible's own documentation. intersphinx would ask the network where it is.
ANSIBLE = "https://docs.ansible.com/ansible/latest/"
LABELS = {
    "action_plugins": "plugins/action.html",
    "ansible_configuration_settings": "reference_appendices/config.html",
    "common_return_values": "reference_appendices/common_return_values.html",
}


def lead_to_ansible(app, env, node, contnode):
    label = node["reftarget"]
    page = LABELS.get(label)
    if label.startswith("ansible_collections.ansible.builtin."):
        page = f"collections/ansible/builtin/{label.rsplit('.', 1)[1]}.html"
    return page and nodes.reference("", "", contnode, refuri=ANSIBLE + page, internal=False)


def setup(app):
    app.connect("missing-reference", lead_to_ansible)
    return {"parallel_read_safe": True}
