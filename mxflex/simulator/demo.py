"""The built-in scenario: a small company whose telephones never stay quiet for long.

Each user takes part in a script of a few seconds that begins again and again, so an open stream of
any of them soon shows something. Numbers are from the ranges set aside for fiction.
The scripts of `flows` are there too, to be played on demand.
"""

from __future__ import annotations

from mxflex.simulator.flows import FLOWS

SCENARIO_NAME = "the built-in scenario"

_EVERY_DAY = """\
company:
  serial: "63022"
  server: {login: mxflex, password: demo-server}

users:
  - {ext: "3095", login: alexey, password: demo, first_name: Алексей, last_name: Морозов,
     cell_phone: "+447700900195", email: alexey@example.com, answers_after: 8}
  - {ext: "3044", login: emma, password: demo, first_name: Emma, last_name: Clarke,
     cell_phone: "+447700900144", email: emma@example.com, did: "12025550144", answers_after: 4}
  - {ext: "3055", login: lucas, password: demo, first_name: Lucas, last_name: Moreau,
     email: lucas@example.com, answers_after: 5}
  - {ext: "3061", login: priya, password: demo, first_name: Priya, last_name: Nair,
     email: priya@example.com, presence: BeRightBack, note: back at three}
  - {ext: "3072", login: olga, password: demo, first_name: Ольга, last_name: Лебедева,
     email: olga@example.com, note: до обеда на складе, answers_after: 4}
  - {ext: "3083", login: noah, password: demo, first_name: Noah, last_name: Berger,
     home_phone: "+442079460183", email: noah@example.com, answers_after: 6}
  - {ext: "3098", login: sofia, password: demo, first_name: Sofia, last_name: Rossi,
     email: sofia@example.com, answers_after: 5}
  - {ext: "3101", login: mei, password: demo, first_name: Mei, last_name: Tanaka,
     email: mei@example.com, answers_after: 4}

outside:
  - {number: "+12025550104", name: Harbor Coffee Roasters}
  - {number: "+12025550117", name: Grace Whitfield}
  - {number: "+12025550171", name: "Daniel O'Connor"}
  - {number: "+442079460112", name: Northwind Logistics}
  - {number: "+442079460187", name: Ирина Волкова}
  - {number: "+447700900123", name: Tom Ashworth}
  - {number: "+447700900166", name: "Müller & Söhne"}
  - {number: "+12025550190", name: Bluebird Dental, busy: true}

behaviour:
  outside_answers_after: 3
  outside_hangs_up_after: 60
  no_answer_after: 15

scripts:
  - name: a customer has a question, and is asked to wait
    start: 1
    pause: 2
    steps:
      - call: {from: ["+12025550104", "+442079460187", "+12025550171"], to: "3095"}
      - wait: 3
      - answer: "3095"
      - wait: 4
      - hold: "3095"
      - wait: 3
      - retrieve: "3095"
      - wait: 4
      - hang_up: "3095"

  - name: two colleagues talk
    start: 2
    pause: 3
    steps:
      - call: {from: ["3044", "3055"], to: ["3055", "3044"]}
      - wait: 3
      - answer: "3044"
      - answer: "3055"
      - wait: 5
      - hang_up: "3044"

  - name: nobody is at the desk, and voicemail takes the call
    start: 1.5
    pause: 3
    steps:
      - call: {from: ["+447700900123", "+442079460112"], to: "3061"}
      - wait: 5
      - no_answer: "3061"
      - wait: 5
      - hang_up: "*86"

  - name: a customer is handed on to the warehouse
    start: 1
    pause: 2
    steps:
      - call: {from: ["+447700900166", "+12025550117"], to: "3098"}
      - wait: 2
      - answer: "3098"
      - wait: 2
      - transfer: {from: "3098", to: "3072"}
      - wait: 2
      - answer: "3072"
      - wait: 4
      - hang_up: "3072"

  - name: somebody calls a supplier, who may be busy
    start: 2.5
    pause: 4
    steps:
      - call: {from: "3083", to: ["+442079460112", "+12025550190"]}
      - wait: 3
      - answer: "+442079460112"
      - record: "3083"
      - wait: 5
      - hang_up: "3083"

  - name: a caller is parked, and taken from there
    start: 4
    pause: 3
    steps:
      - call: {from: ["+12025550171", "+447700900123"], to: "3101"}
      - wait: 3
      - answer: "3101"
      - wait: 3
      - park: "3101"
      - wait: 3
      - pick_up: "3101"
      - wait: 4
      - hang_up: "3101"

  - name: people come and go
    start: 5
    pause: 1
    steps:
      - presence: {ext: "3061", status: Available, note: ""}
      - wait: 20
      - presence: {ext: "3061", status: BeRightBack, note: back at three}
      - wait: 20
      - presence: {ext: "3083", status: NotAvailable, note: in a meeting}
      - wait: 20
      - presence: {ext: "3083", status: Available, note: ""}

"""

SCENARIO = _EVERY_DAY + FLOWS
